"""A diffusers checkpoint without its weights: classes and empty denoisers, from its configuration files alone.

With it, an option that a model does not support is refused in a second, not after minutes of loading.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from configs.errors import ConfigError

DENOISERS = ("transformer", "transformer_2", "unet")


@dataclass(frozen=True)
class Outline:
    """Denoisers without weights. denoisers: by name, on the meta device. quantised: the method of each quantised one, by name.

    source: of the pipeline's class.
    """

    denoisers: Mapping[str, Any]
    quantised: Mapping[str, str]
    source: str

    @property
    def guides_in_two_passes(self) -> bool:
        """Whether a step calls the denoiser once with the prompt and once without, as Wan's does."""
        return 'cache_context("uncond"' in self.source

    @property
    def guides_in_one_batch(self) -> bool:
        """Whether a step calls the denoiser once, with and without the prompt in one batch, as CogVideoX's does."""
        return 'cache_context("cond_uncond"' in self.source

    @property
    def packs_latents(self) -> bool:
        """Whether the pipeline, not the denoiser, turns latents into a sequence of tokens, as LTX-Video's does."""
        return "self._pack_latents(" in self.source


class CheckpointClass(NamedTuple):
    """The pipeline class that reads a checkpoint. quantised: as in Outline.

    pipeline: the checkpoint's own class, since DiffusionPipeline reads optional parts, such as Wan's denoisers, even where it is given
    them (diffusers 0.42).
    """

    pipeline: Any
    quantised: Mapping[str, str]


def read_outline(folder: str, revision: str | None) -> Outline:
    """Read the outline of a folder or hub name. Raises ConfigError where the pipeline or a denoiser has a class outside diffusers."""
    import diffusers

    index = diffusers.DiffusionPipeline.load_config(folder, revision=revision)
    pipeline = getattr(diffusers, str(index["_class_name"]), None)
    parts = {name: index[name] for name in DENOISERS if (index.get(name) or [None])[0] is not None}
    classes: dict[str, Any] = {name: getattr(diffusers, kind, None) for name, (_, kind) in parts.items()}
    if pipeline is None or None in classes.values():
        kinds = ", ".join([str(index["_class_name"]), *(str(parts[name][1]) for name in parts)])
        options = "'cache', 'quantisation', 'attention' and 'guidance_batch'"
        raise ConfigError(f"options {options} need a model of diffusers' own classes, got {kinds}. Leave them out.")
    configs = {name: cls.load_config(folder, subfolder=name, revision=revision) for name, cls in classes.items()}
    with torch.device("meta"):
        denoisers = {name: cls.from_config(configs[name]) for name, cls in classes.items()}
    return Outline(denoisers, _methods(configs), inspect.getsource(pipeline))


def read_class(folder: str, revision: str | None) -> CheckpointClass:
    """Read the class from the checkpoint's configuration files."""
    import diffusers

    index = diffusers.DiffusionPipeline.load_config(folder, revision=revision)
    parts = {name: getattr(diffusers, str(kind), None) for name in DENOISERS for _, kind in [index.get(name) or (None, None)]}
    configs = {name: cls.load_config(folder, subfolder=name, revision=revision) for name, cls in parts.items() if cls is not None}
    return CheckpointClass(getattr(diffusers, str(index["_class_name"]), diffusers.DiffusionPipeline), _methods(configs))


def _methods(configs: Mapping[str, Any]) -> dict[str, str]:
    quantisations = {name: config.get("quantization_config") for name, config in configs.items()}
    return {name: str(config.get("quant_method", "an unknown method")) for name, config in quantisations.items() if config}
