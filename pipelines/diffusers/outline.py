"""A diffusers checkpoint without its weights: classes and empty denoisers, from its config files alone.

So that what a model cannot do is refused in a second, not after minutes of loading.
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
    """denoisers: by their name in the pipeline, on the meta device. quantised: by what method those are that come so. source: of the
    pipeline's class."""

    denoisers: Mapping[str, Any]
    quantised: Mapping[str, str]
    source: str

    @property
    def guides_in_two_passes(self) -> bool:
        """Whether a step calls the denoiser once with the caption and once more without, as Wan does."""
        return 'cache_context("uncond"' in self.source

    @property
    def guides_in_one_batch(self) -> bool:
        """Whether captioned and uncaptioned go through the denoiser side by side, as in CogVideoX."""
        return 'cache_context("cond_uncond"' in self.source

    @property
    def has_tokens_in_a_row(self) -> bool:
        """Whether the pipeline, and not the denoiser, cuts the latents into tokens, as LTX-Video's does."""
        return "self._pack_latents(" in self.source


class Glance(NamedTuple):
    """pipeline: the checkpoint's own class. diffusers 0.42's general one reads optional parts, as Wan's denoisers are, though it is given
    them. quantised: as in Outline."""

    pipeline: Any
    quantised: Mapping[str, str]


def read_outline(folder: str, revision: str | None) -> Outline:
    """Raises ConfigError where the pipeline or a denoiser is of a class that is not diffusers' own."""
    import diffusers

    index = diffusers.DiffusionPipeline.load_config(folder, revision=revision)
    pipeline = getattr(diffusers, str(index["_class_name"]), None)
    parts = {name: index[name] for name in DENOISERS if (index.get(name) or [None])[0] is not None}
    classes: dict[str, Any] = {name: getattr(diffusers, kind, None) for name, (_, kind) in parts.items()}
    if pipeline is None or None in classes.values():
        kinds = ", ".join([str(index["_class_name"]), *(str(parts[name][1]) for name in parts)])
        options = "'cache', 'quantisation', 'attention' and 'guidance_batch'"
        raise ConfigError(f"options {options} need a model of diffusers' own classes, not {kinds}; leave them out")
    configs = {name: cls.load_config(folder, subfolder=name, revision=revision) for name, cls in classes.items()}
    with torch.device("meta"):
        denoisers = {name: cls.from_config(configs[name]) for name, cls in classes.items()}
    return Outline(denoisers, _methods(configs), inspect.getsource(pipeline))


def glance(folder: str, revision: str | None) -> Glance:
    """What has to be known before a checkpoint is read at all."""
    import diffusers

    index = diffusers.DiffusionPipeline.load_config(folder, revision=revision)
    parts = {name: getattr(diffusers, str(kind), None) for name in DENOISERS for _, kind in [index.get(name) or (None, None)]}
    configs = {name: cls.load_config(folder, subfolder=name, revision=revision) for name, cls in parts.items() if cls is not None}
    return Glance(getattr(diffusers, str(index["_class_name"]), diffusers.DiffusionPipeline), _methods(configs))


def _methods(configs: Mapping[str, Any]) -> dict[str, str]:
    found = {name: config.get("quantization_config") for name, config in configs.items()}
    return {name: str(quantised.get("quant_method", "an unknown method")) for name, quantised in found.items() if quantised}
