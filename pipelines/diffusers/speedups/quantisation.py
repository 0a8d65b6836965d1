"""Denoisers with quantised weights, and how to tell from the weights that they are.

By name:
  round         each row of a linear layer rounded to 2^bits - 1 levels, symmetric about nought, kept in the original dtype. It tells
                what so few bits cost in quality; it saves neither time nor memory. bits: 2 to 8
  torchao       diffusers' TorchAoConfig. quant_type: a config class of torchao.quantization, with its own parameters beside it
  bitsandbytes  diffusers' BitsAndBytesConfig, with its own parameters
  gguf          the weights of a GGUF file. file, or files by the denoiser's name; pipelines/diffusers/speedups/quantised_files.py
  quark         a folder whose denoisers AMD's Quark has quantised. native: multiply by AITER's kernels
  layerwise     weights kept in float8 and turned into the model's dtype at every use, diffusers' layerwise casting. storage: the dtype
Layers that a model keeps in float32 stay as they are, and so do those whose name holds a part of `modules_to_not_convert`
(bitsandbytes: `llm_int8_skip_modules`).
"""

from __future__ import annotations

import importlib.util
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from configs.errors import ConfigError, first_line, unknown
from pipelines.devices.accelerators import require
from pipelines.diffusers.library_options import build, named
from pipelines.diffusers.speedups import quantised_files
from pipelines.diffusers.speedups.base import DiffusersOptions, Loaded, SpeedUp, Target

KINDS = ("round", "torchao", "bitsandbytes", "gguf", "quark", "layerwise")
PACKAGES = ("torchao", "bitsandbytes", "gguf")  # kinds that are a package's; quark's is found by another name
TRIED_OUTPUTS = 256  # of the layer that a library's kernel is tried on
ROWS_LOOKED_AT = 8  # of each layer


@dataclass(frozen=True)
class Rounding:
    bits: int
    modules_to_not_convert: list[str] | None = None

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise ValueError(f"option 'bits' is {self.bits}; it must be from 2 to 8")


@dataclass(frozen=True)
class Storage:
    """storage: the dtype in which weights wait for their use."""

    storage: Literal["float8_e4m3fn", "float8_e5m2"] = "float8_e4m3fn"


class Quantisation(SpeedUp):
    """One kind of quantised weights, for every denoiser of a pipeline."""

    option = "quantisation"
    unset = (None, "none")
    entry = "quantisation"

    def __init__(self, options: DiffusersOptions) -> None:
        super().__init__(options)
        if not self.requested:
            return
        self.name, given = named("pipeline 'diffusers_t2v'", "quantisation", self.value, KINDS)
        self.what = f"pipeline 'diffusers_t2v': quantisation {self.name!r}"
        if self.name in PACKAGES and importlib.util.find_spec(self.name) is None:
            raise ConfigError(f"{self.what} needs a package: pip install {self.name}")
        self._given = given
        self._config = self._configured()
        skipped = "llm_int8_skip_modules" if self.name == "bitsandbytes" else "modules_to_not_convert"
        self._skipped: Sequence[str] = getattr(self._config, skipped, None) or ()

    def check(self, target: Target) -> None:
        outline, device, dtype = target.outline, target.device, target.dtype
        if self.name == "quark":
            plain = [f"{name} is {outline.quantised.get(name) or 'not quantised'}" for name in outline.denoisers]
            if set(outline.quantised.values()) != {"quark"} or len(outline.quantised) < len(outline.denoisers):
                raise ConfigError(f"{self.what} is for a folder that Quark has written, but the model's {', '.join(plain)}; leave it out")
            if self._config.native:
                quantised_files.check_native(self.what, device)
            return
        if outline.quantised:
            name, method = next(iter(outline.quantised.items()))
            raise ConfigError(f"{self.what}: the model's {name} is quantised already, by {method}; leave it out")
        if self.name == "gguf":
            self._config.of(self.what, list(outline.denoisers))
        if self.name not in ("torchao", "bitsandbytes"):
            return
        for feature in formats_needed(getattr(self._config, "quant_type", None)):
            require(self.what, device, feature)
        from diffusers.quantizers.auto import DiffusersAutoQuantizer

        try:
            DiffusersAutoQuantizer.from_config(self._config, pre_quantized=False).validate_environment()
            if self.name == "torchao":
                for width in {layer.in_features for _, layer in self._due(outline.denoisers)}:
                    _try_torchao(self._config.quant_type, width, device, dtype)
        except Exception as error:  # whatever the library raises where it lacks a kernel, a package or a device
            raise ConfigError(
                f"{self.what} does not work here, on {device} in {str(dtype).removeprefix('torch.')}: {first_line(error)}"
            ) from error

    def for_loading(self, target: Target) -> dict[str, Any]:
        if self.name not in ("gguf", "torchao", "bitsandbytes"):
            return {}
        if self.options.weights == "random":
            raise ConfigError(f"quantisation {self.name!r} is made while a checkpoint is read; it needs weights: pretrained")
        if self.name == "gguf":
            place = quantised_files.Place(target.folder, target.revision)
            return quantised_files.read_gguf(self._config, self.what, place, target.outline.denoisers, target.dtype)
        from diffusers import PipelineQuantizationConfig

        mapping = {name: self._configured() for name in target.outline.denoisers}
        return {"quantization_config": PipelineQuantizationConfig(quant_mapping=mapping)}

    def apply(self, loaded: Loaded) -> None:
        """Quantise what loading has not."""
        if self.name == "round":
            for _, layer in self._due(loaded.denoisers):
                _round_rows(layer.weight, self._config.bits)
        if self.name == "layerwise":
            for denoiser in loaded.denoisers.values():
                denoiser.enable_layerwise_casting(storage_dtype=getattr(torch, self._config.storage), compute_dtype=denoiser.dtype)
        if self.name == "quark" and self._config.native:
            quantised_files.compute_natively(self.what, loaded.denoisers)

    def effective(self, loaded: Loaded) -> str:
        """How the denoisers' linear layers are quantised, read from their weights: `KIND in N of M linear layers`, or `none`."""
        layers = [layer for denoiser in loaded.denoisers.values() for _, layer in _layers(denoiser)]
        kinds = Counter(kind for layer in layers if (kind := _kind(layer)))
        return ", ".join(f"{kind} in {count} of {len(layers)} linear layers" for kind, count in kinds.items()) or "none"

    def fallbacks(self, loaded: Loaded) -> list[str]:
        due = self._due(loaded.denoisers)
        left = [name for name, layer in due if _kind(layer) is None and bool(layer.weight.any())]
        found = []
        if self.name in ("gguf", "quark"):  # whose files say which layers are plain
            return [f"quantisation {self.name!r} is in no layer"] if len(left) == len(due) else []
        if left:
            found.append(f"quantisation {self.name!r} left {len(left)} of {len(due)} linear layers as they were, first {left[0]}")
        if self.name == "round" and (bits := max((_bits(layer.weight) or 0 for _, layer in due), default=0)) > self._config.bits:
            found.append(f"quantisation 'round' has weights of {bits} bits, not {self._config.bits}")
        return found

    def _configured(self) -> Any:
        """A config: diffusers' own, or of the rounding. Each denoiser gets one of its own, since diffusers writes into them."""
        ours: dict[str, Any] = {
            "round": Rounding,
            "layerwise": Storage,
            "gguf": quantised_files.GgufFiles,
            "quark": quantised_files.QuarkFolder,
        }
        if self.name in ours:
            return build(ours[self.name], self.what, self._given)
        import diffusers

        if self.name == "bitsandbytes":
            return build(diffusers.BitsAndBytesConfig, self.what, self._given)
        import torchao.quantization as library
        from torchao.core.config import AOBaseConfig

        kinds = {
            n: c for n, c in vars(library).items() if isinstance(c, type) and issubclass(c, AOBaseConfig) and n.endswith("WeightConfig")
        }
        kinds |= {n: c for n, c in vars(library).items() if n.endswith("WeightOnlyConfig")}
        given = dict(self._given)
        outer = {k: given.pop(k) for k in ("modules_to_not_convert",) if k in given}
        quant_type = given.pop("quant_type", None)
        if quant_type not in kinds:
            raise ConfigError(f"{self.what}: {unknown('quant_type', quant_type, kinds)}")
        inner: Any = build(kinds[quant_type], f"{self.what}, quant_type {quant_type!r}", given, names=vars(library.granularity))
        return build(diffusers.TorchAoConfig, self.what, outer, {"quant_type": inner})

    def _due(self, denoisers: Mapping[str, Any]) -> list[tuple[str, torch.nn.Linear]]:
        """The linear layers that have to be quantised."""
        due = []
        for denoiser in denoisers.values():
            kept = [*(denoiser._keep_in_fp32_modules or ()), *self._skipped]
            if self.name == "layerwise":
                due += [(name, layer) for name, layer in _layers(denoiser) if not _stays_wide(denoiser, name)]
                continue
            due += [(name, layer) for name, layer in _layers(denoiser) if not any(f"{part}." in f"{name}." for part in kept)]
        return due


def formats_needed(quant_type: Any) -> list[str]:
    """What a torchao config computes in, of FEATURES in devices/accelerators.py. Weights alone in a format need nothing."""
    kind = type(quant_type).__name__
    dtypes = [v for v in vars(quant_type).values() if isinstance(v, torch.dtype)] if hasattr(quant_type, "__dict__") else []
    if kind.startswith("NVFP4Dynamic"):
        return ["nvfp4"]
    if kind.startswith("MXDynamic"):
        return ["mxfp4" if torch.float4_e2m1fn_x2 in dtypes else "mxfp8"]
    if not kind.startswith(("Float8Dynamic", "Float8Static")):
        return []
    forms = {"fp8_fnuz" if "fnuz" in str(dtype) else "fp8_ocp" for dtype in dtypes if "float8" in str(dtype)}
    return sorted(forms) or ["fp8_ocp"]  # what a kind without a choice is made for


def _layers(denoiser: Any) -> Iterator[tuple[str, torch.nn.Linear]]:
    return ((name, module) for name, module in denoiser.named_modules() if isinstance(module, torch.nn.Linear))


def _stays_wide(denoiser: Any, name: str) -> bool:
    """Whether diffusers' layerwise casting leaves a layer as it is."""
    from diffusers.hooks.layerwise_casting import DEFAULT_SKIP_MODULES_PATTERN

    own = (*(denoiser._keep_in_fp32_modules or ()), *(denoiser._skip_layerwise_casting_patterns or ()))
    return any(re.search(pattern, name) for pattern in (*DEFAULT_SKIP_MODULES_PATTERN, *own))


def _kind(layer: torch.nn.Linear) -> str | None:
    """What a layer's weight is stored as; None where it is plain."""
    weight: torch.Tensor = layer.weight
    if kind := quantised_files.kind_of(layer):
        return kind
    if type(weight) is not torch.nn.Parameter:
        stored = getattr(weight, "target_dtype", None) or getattr(getattr(weight, "qdata", None), "dtype", None)
        return type(weight).__name__ + (f" ({str(stored).removeprefix('torch.')})" if stored else "")
    if not weight.is_floating_point() or weight.dtype.itemsize == 1:
        return str(weight.dtype).removeprefix("torch.")
    bits = _bits(weight)
    return None if bits is None else f"rounded to {bits} bits"


def _bits(weight: torch.Tensor) -> int | None:
    """The fewest bits on whose grid the weight's rows lie; None where they lie on no grid of 8 bits or less, or are all nought."""
    if type(weight) is not torch.nn.Parameter or not weight.is_floating_point() or weight.is_meta:
        return None
    rows = weight.detach()[:: max(len(weight) // ROWS_LOOKED_AT, 1)].float()
    tops = rows.abs().amax(1, keepdim=True)
    rows, tops = rows[tops[:, 0] > 0], tops[tops[:, 0] > 0]
    if not len(rows):
        return None
    for bits in range(2, 9):
        steps = rows / tops * (2 ** (bits - 1) - 1)
        room = 2 * torch.finfo(weight.dtype).eps * steps.abs().clamp(min=1)
        if bool(((steps - steps.round()).abs() <= room).all()):
            return bits
    return None


def _round_rows(weight: torch.Tensor, bits: int) -> None:
    with torch.no_grad():
        scale = weight.float().abs().amax(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / (2 ** (bits - 1) - 1)
        weight.copy_((weight.float() / scale).round() * scale)


def _try_torchao(quant_type: Any, width: int, device: torch.device, dtype: torch.dtype) -> None:
    """Quantise a layer of that many inputs and use it. Raises what the library raises."""
    from torchao.quantization import quantize_

    layer = torch.nn.Sequential(torch.nn.Linear(width, TRIED_OUTPUTS, device=device, dtype=dtype))
    quantize_(layer, quant_type)
    with torch.inference_mode():
        layer(torch.ones(16, width, device=device, dtype=dtype))
    if type(layer[0].weight) is torch.nn.Parameter:
        raise RuntimeError("it leaves a layer as it was")
