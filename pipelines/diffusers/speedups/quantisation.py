"""Quantised weights of the denoisers, and their detection in loaded layers.

By name:
  round         rounds each row of a linear layer to 2^bits - 1 levels, symmetric about zero, in the original dtype. It shows what so few
                bits cost in quality; it saves neither time nor memory. bits: 2 to 8
  torchao       diffusers' TorchAoConfig. quant_type: a config class of torchao.quantization; its parameters are given beside it
  bitsandbytes  diffusers' BitsAndBytesConfig, with its parameters
  gguf          the weights of a GGUF file. file, or files by the denoiser's name (quantised_files.py)
  quark         a folder whose denoisers AMD's Quark has quantised. native: multiply by AITER's kernels
  layerwise     stores weights in float8 and casts them to the model's dtype at every use: diffusers' layerwise casting. storage: the dtype
Layers that a model keeps in float32 are not quantised, nor are those whose name contains an entry of `modules_to_not_convert`
(bitsandbytes: `llm_int8_skip_modules`).
"""

from __future__ import annotations

import importlib.util
import inspect
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
PACKAGES = ("torchao", "bitsandbytes", "gguf")  # kinds that need the package of their name; quark's is amd-quark
TRIAL_OUTPUTS = 256  # of the layer that a library's kernel is tried on
SAMPLED_ROWS = 8  # of each layer, in the search for its number of bits
# torchao divides a layer's input by its largest value, and an empty prompt is all zeros: 0/0 gave NaN frames. The bound that it accepts
# for that is far below any input of a sound model, and off by default.
SMALLEST_INPUT = 1e-12


@dataclass(frozen=True)
class Rounding:
    bits: int
    modules_to_not_convert: list[str] | None = None

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise ValueError(f"bits must be from 2 to 8, got {self.bits}")


@dataclass(frozen=True)
class Storage:
    """storage: the dtype in which weights are stored between uses."""

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
        self._config = self._make_config()
        skipped = "llm_int8_skip_modules" if self.name == "bitsandbytes" else "modules_to_not_convert"
        self._skipped: Sequence[str] = getattr(self._config, skipped, None) or ()

    def check(self, target: Target) -> None:
        outline, device, dtype = target.outline, target.device, target.dtype
        if self.name == "quark":
            plain = [f"{name} is {outline.quantised.get(name) or 'not quantised'}" for name in outline.denoisers]
            if set(outline.quantised.values()) != {"quark"} or len(outline.quantised) < len(outline.denoisers):
                raise ConfigError(f"{self.what} needs a folder written by Quark, but the model's {', '.join(plain)}. Leave it out.")
            if self._config.native:
                quantised_files.check_native(self.what, device)
            return
        if outline.quantised:
            name, method = next(iter(outline.quantised.items()))
            raise ConfigError(f"{self.what}: the model's {name} is quantised already, by {method}. Leave it out.")
        if self.name == "gguf":
            self._config.by_denoiser(self.what, list(outline.denoisers))
        if self.name not in ("torchao", "bitsandbytes"):
            return
        for feature in formats_needed(getattr(self._config, "quant_type", None)):
            require(self.what, device, feature)
        from diffusers.quantizers.auto import DiffusersAutoQuantizer

        try:
            DiffusersAutoQuantizer.from_config(self._config, pre_quantized=False).validate_environment()
            if self.name == "torchao":
                for width in {layer.in_features for _, layer in self._layers_to_quantise(outline.denoisers)}:
                    _try_torchao(self._config.quant_type, width, device, dtype)
        except Exception as error:  # whatever the library raises where it lacks a kernel, a package or a device
            raise ConfigError(
                f"{self.what} does not run on {device} in {str(dtype).removeprefix('torch.')}: {first_line(error)}"
            ) from error

    def for_loading(self, target: Target) -> dict[str, Any]:
        if self.name not in ("gguf", "torchao", "bitsandbytes"):
            return {}
        if self.options.weights == "random":
            raise ConfigError(f"{self.what} quantises a checkpoint while reading it and needs weights: pretrained.")
        if self.name == "gguf":
            place = quantised_files.Place(target.folder, target.revision)
            return quantised_files.read_gguf(self._config, self.what, place, target.outline.denoisers, target.dtype)
        from diffusers import PipelineQuantizationConfig

        mapping = {name: self._make_config() for name in target.outline.denoisers}
        return {"quantization_config": PipelineQuantizationConfig(quant_mapping=mapping)}

    def apply(self, loaded: Loaded) -> None:
        """Quantise layers, of those kinds that do so after loading."""
        if self.name == "round":
            for _, layer in self._layers_to_quantise(loaded.denoisers):
                _round_rows(layer.weight, self._config.bits)
        if self.name == "layerwise":
            for denoiser in loaded.denoisers.values():
                denoiser.enable_layerwise_casting(storage_dtype=getattr(torch, self._config.storage), compute_dtype=denoiser.dtype)
        if self.name == "quark" and self._config.native:
            quantised_files.use_native_kernels(self.what, loaded.denoisers)

    def effective(self, loaded: Loaded) -> str:
        """How the denoisers' linear layers are quantised, read from their weights: `KIND in N of M linear layers`, or `none`."""
        layers = [layer for denoiser in loaded.denoisers.values() for _, layer in _layers(denoiser)]
        kinds = Counter(kind for layer in layers if (kind := _kind(layer)))
        return ", ".join(f"{kind} in {count} of {len(layers)} linear layers" for kind, count in kinds.items()) or "none"

    def fallbacks(self, loaded: Loaded) -> list[str]:
        due = self._layers_to_quantise(loaded.denoisers)
        left = [name for name, layer in due if _kind(layer) is None and bool(layer.weight.any())]
        if self.name in ("gguf", "quark"):  # their files define which layers are quantised
            return [f"quantisation {self.name!r} is in no layer"] if len(left) == len(due) else []
        sentences = []
        if left:
            sentences.append(f"quantisation {self.name!r} left {len(left)} of {len(due)} linear layers unquantised, first {left[0]}")
        if self.name == "round" and (bits := max((_bits(layer.weight) or 0 for _, layer in due), default=0)) > self._config.bits:
            sentences.append(f"quantisation 'round' has weights of {bits} bits, not {self._config.bits}")
        return sentences

    def _make_config(self) -> Any:
        """Make a config, of diffusers' or our own class; a new one for each denoiser, since diffusers writes into it."""
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
        if "activation_value_lb" in inspect.signature(kinds[quant_type]).parameters:
            given.setdefault("activation_value_lb", SMALLEST_INPUT)
        inner: Any = build(kinds[quant_type], f"{self.what}, quant_type {quant_type!r}", given, names=vars(library.granularity))
        return build(diffusers.TorchAoConfig, self.what, outer, {"quant_type": inner})

    def _layers_to_quantise(self, denoisers: Mapping[str, Any]) -> list[tuple[str, torch.nn.Linear]]:
        """The linear layers that are to be quantised, by name."""
        due = []
        for denoiser in denoisers.values():
            kept = [*(denoiser._keep_in_fp32_modules or ()), *self._skipped]
            if self.name == "layerwise":
                due += [(name, layer) for name, layer in _layers(denoiser) if not _skips_casting(denoiser, name)]
                continue
            due += [(name, layer) for name, layer in _layers(denoiser) if not any(f"{part}." in f"{name}." for part in kept)]
        return due


def formats_needed(quant_type: Any) -> list[str]:
    """The formats that a torchao config computes in, of FEATURES in devices/accelerators.py; none where it only stores weights."""
    kind = type(quant_type).__name__
    dtypes = [v for v in vars(quant_type).values() if isinstance(v, torch.dtype)] if hasattr(quant_type, "__dict__") else []
    if kind.startswith("NVFP4Dynamic"):
        return ["nvfp4"]
    if kind.startswith("MXDynamic"):
        return ["mxfp4" if torch.float4_e2m1fn_x2 in dtypes else "mxfp8"]
    if not kind.startswith(("Float8Dynamic", "Float8Static")):
        return []
    forms = {"fp8_fnuz" if "fnuz" in str(dtype) else "fp8_ocp" for dtype in dtypes if "float8" in str(dtype)}
    return sorted(forms) or ["fp8_ocp"]  # the format of configs without a choice


def _layers(denoiser: Any) -> Iterator[tuple[str, torch.nn.Linear]]:
    return ((name, module) for name, module in denoiser.named_modules() if isinstance(module, torch.nn.Linear))


def _skips_casting(denoiser: Any, name: str) -> bool:
    """Whether diffusers' layerwise casting skips a layer."""
    from diffusers.hooks.layerwise_casting import DEFAULT_SKIP_MODULES_PATTERN

    own = (*(denoiser._keep_in_fp32_modules or ()), *(denoiser._skip_layerwise_casting_patterns or ()))
    return any(re.search(pattern, name) for pattern in (*DEFAULT_SKIP_MODULES_PATTERN, *own))


def _kind(layer: torch.nn.Linear) -> str | None:
    """The format in which a layer's weight is stored; None where it is not quantised."""
    weight: torch.Tensor = layer.weight
    if kind := quantised_files.format_of(layer):
        return kind
    if type(weight) is not torch.nn.Parameter:
        stored = getattr(weight, "target_dtype", None) or getattr(getattr(weight, "qdata", None), "dtype", None)
        return type(weight).__name__ + (f" ({str(stored).removeprefix('torch.')})" if stored else "")
    if not weight.is_floating_point() or weight.dtype.itemsize == 1:
        return str(weight.dtype).removeprefix("torch.")
    bits = _bits(weight)
    return None if bits is None else f"rounded to {bits} bits"


def _bits(weight: torch.Tensor) -> int | None:
    """The smallest number of bits on whose grid the weight's rows lie; None where it is above 8, or all rows are zero."""
    if type(weight) is not torch.nn.Parameter or not weight.is_floating_point() or weight.is_meta:
        return None
    rows = weight.detach()[:: max(len(weight) // SAMPLED_ROWS, 1)].float()
    tops = rows.abs().amax(1, keepdim=True)
    rows, tops = rows[tops[:, 0] > 0], tops[tops[:, 0] > 0]
    if not len(rows):
        return None
    for bits in range(2, 9):
        steps = rows / tops * (2 ** (bits - 1) - 1)
        tolerance = 2 * torch.finfo(weight.dtype).eps * steps.abs().clamp(min=1)
        if bool(((steps - steps.round()).abs() <= tolerance).all()):
            return bits
    return None


def _round_rows(weight: torch.Tensor, bits: int) -> None:
    with torch.no_grad():
        scale = weight.float().abs().amax(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / (2 ** (bits - 1) - 1)
        weight.copy_((weight.float() / scale).round() * scale)


def _try_torchao(quant_type: Any, width: int, device: torch.device, dtype: torch.dtype) -> None:
    """Quantise a layer of that many inputs and use it. Raises what the library raises."""
    from torchao.quantization import quantize_

    layer = torch.nn.Sequential(torch.nn.Linear(width, TRIAL_OUTPUTS, device=device, dtype=dtype))
    quantize_(layer, quant_type)
    with torch.inference_mode():
        layer(torch.ones(16, width, device=device, dtype=dtype))
    if type(layer[0].weight) is torch.nn.Parameter:
        raise RuntimeError("it does not quantise the layer")
