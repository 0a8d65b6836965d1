"""LoRA adapters of a denoiser, such as those distilled for few denoising steps. Needs the package peft."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import ConfigError, first_line
from pipelines.diffusers.library_options import build
from pipelines.diffusers.speedups.base import DiffusersOptions, Loaded, SpeedUp
from pipelines.models.embedded import VIDEO_TWO_STEPS
from pipelines.models.tensors import check_tensors

PICKLES = (".pt", ".pth", ".bin", ".ckpt")


@dataclass(frozen=True)
class Adapter:
    """One adapter for one denoiser.

    path: a safetensors file, a folder, a hub name, or `embedded`: the embedded model's own, distilled into two steps, whose files are
    high_noise.safetensors and low_noise.safetensors. weight_name: the file in a folder or on the hub. denoiser: the one it is loaded into.
    scale: the factor of its weights. fuse: add it to the denoiser's weights, so that it costs no time afterwards.
    """

    path: str
    weight_name: str | None = None
    denoiser: str = "transformer"
    scale: float = 1.0
    fuse: bool = False


class Lora(SpeedUp):
    """One adapter or several."""

    option = "lora"
    entry = "lora"

    def __init__(self, options: DiffusersOptions) -> None:
        super().__init__(options)
        if not self.requested:
            return
        self.what = "pipeline 'diffusers_t2v': option 'lora'"
        each = [self.value] if isinstance(self.value, str | Mapping) else list(self.value)
        self._adapters = [build(Adapter, self.what, {"path": one} if isinstance(one, str) else one) for one in each]
        for adapter in self._adapters:
            if any(file.endswith(PICKLES) for file in (adapter.path, adapter.weight_name or "")):
                raise ConfigError(f"{self.what}: {adapter.path!r} is a pickle, which can run code when read. Give a safetensors file.")
            if Path(adapter.path).suffix == ".safetensors" and not Path(adapter.path).is_file():
                raise ConfigError(f"{self.what}: file {adapter.path!r} does not exist.")
        if len({a.fuse for a in self._adapters}) > 1:
            raise ConfigError(f"{self.what}: some adapters are fused and some are not. Fuse all of them, or none.")
        if importlib.util.find_spec("peft") is None:
            raise ConfigError(f"{self.what} needs a package: pip install peft")

    def apply(self, loaded: Loaded) -> None:
        pipe, denoisers = loaded.pipe, loaded.denoisers
        if not hasattr(pipe, "load_lora_weights"):
            raise ConfigError(f"{self.what}: diffusers supports no LoRA for a {type(pipe).__name__}. Leave it out.")
        for number, adapter in enumerate(self._adapters):
            if adapter.denoiser not in denoisers:
                raise ConfigError(f"{self.what}: denoiser is {adapter.denoiser!r}, but the model has {', '.join(denoisers)}")
            second = {"load_into_transformer_2": True} if adapter.denoiser == "transformer_2" else {}
            where = str(VIDEO_TWO_STEPS) if adapter.path == "embedded" else adapter.path
            file = {"weight_name": adapter.weight_name, "use_safetensors": True}
            try:
                pipe.load_lora_weights(where, adapter_name=f"lora{number}", **file, **second)
                stored = pipe.lora_state_dict(where, **file)  # read again: the call above only logs what it leaves out
            except Exception as error:  # diffusers, peft, safetensors and the hub raise many kinds
                raise ConfigError(f"{self.what}: {adapter.path!r} cannot be used in {adapter.denoiser!r}: {first_line(error)}") from error
            if not any(f"lora{number}" in layer.lora_A for layer in _layers(denoisers[adapter.denoiser])):
                raise ConfigError(f"{self.what}: {adapter.path!r} has no weights for the layers of {adapter.denoiser!r}")
            check_tensors(f"{self.what}: {adapter.path!r}", None, _compare(stored, denoisers[adapter.denoiser], f"lora{number}"))
        for name, denoiser in denoisers.items():
            mine = {f"lora{i}": a.scale for i, a in enumerate(self._adapters) if a.denoiser == name}
            if mine:
                denoiser.set_adapters(list(mine), weights=list(mine.values()))
                if self._adapters[0].fuse:
                    denoiser.fuse_lora(adapter_names=list(mine))

    def effective(self, loaded: Loaded) -> str | None:
        """Adapters in the denoisers' layers."""
        if not self.requested:
            return None
        texts = []
        for number, adapter in enumerate(self._adapters):
            layers = _layers_of(loaded, number, adapter)
            ranks = sorted({layer.r[f"lora{number}"] for layer in layers})
            merged = ", fused" if layers and all(layer.merged for layer in layers) else ""
            where = f"{len(layers)} layers of {adapter.denoiser}, rank {', '.join(map(str, ranks))}"
            texts.append(f"{adapter.weight_name or Path(adapter.path).name} x {adapter.scale:g} in {where}{merged}")
        return "; ".join(texts)

    def fallbacks(self, loaded: Loaded) -> list[str]:
        sentences = []
        for number, adapter in enumerate(self._adapters):
            layers = _layers_of(loaded, number, adapter)
            active = [layer for layer in layers if f"lora{number}" in layer.active_adapters and not layer.disable_adapters]
            if not active:
                sentences.append(f"option lora: {adapter.path} is active in no layer of {adapter.denoiser}")
            elif adapter.fuse and not all(layer.merged for layer in layers):
                sentences.append(f"option lora: {adapter.path} is not fused")
        return sentences


def _compare(stored: Any, denoiser: Any, adapter_name: str) -> dict[str, set[str]]:
    """Tensors of an adapter's file, in diffusers' names, that are in no layer, and tensors of its layers that are not in the file.

    Layers of which the file has no tensor are not missing: diffusers adds empty ones where it puts an adapter of a model of text into one
    of images (Wan).
    """
    from diffusers.utils import convert_unet_state_dict_to_peft

    tensors = dict.fromkeys(stored[0] if isinstance(stored, tuple) else stored)
    if tensors and "lora_A" not in next(iter(tensors)) and not any(".lokr_" in name for name in tensors):
        tensors = convert_unet_state_dict_to_peft(tensors)
    # In the file `transformer.blocks.0.to_q.lora_A.weight`, in the denoiser `blocks.0.to_q.lora_A.lora0.weight`.
    in_file = {name.removeprefix("transformer.") for name in tensors}
    in_layers = {name.replace(f".{adapter_name}", "") for name in denoiser.state_dict() if f".{adapter_name}" in name}
    layers = {re.split(r"\.(?=lora|lokr)", name)[0] for name in in_file}
    missing = {name for name in in_layers - in_file if re.split(r"\.(?=lora|lokr)", name)[0] in layers}
    return {"missing_keys": missing, "unexpected_keys": in_file - in_layers}


def _layers_of(loaded: Loaded, number: int, adapter: Adapter) -> list[Any]:
    return [layer for layer in _layers(loaded.denoisers[adapter.denoiser]) if f"lora{number}" in layer.lora_A]


def _layers(denoiser: Any) -> list[Any]:
    from peft.tuners.lora.layer import LoraLayer

    return [module for module in denoiser.modules() if isinstance(module, LoraLayer)]
