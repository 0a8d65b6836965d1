"""Checks and defaults that the options of several pipelines share. All checks raise ConfigError naming pipeline and option."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from configs.errors import ConfigError

if TYPE_CHECKING:
    import torch

DEFAULT_CONTEXT = 4096  # tokens of prompt and answer together, where neither an option nor the model sets a lower limit
SAMPLING_OPTIONS = ("temperature", "top_k", "top_p")


def check_positive(pipeline: str, options: Any, names: Iterable[str]) -> None:
    """options: the pipeline. An option that is None is not set and passes."""
    for name in names:
        if (value := getattr(options, name)) is not None and value <= 0:
            raise ConfigError(f"pipeline {pipeline!r}: {name} must be positive, got {value}")


def check_fraction(pipeline: str, options: Any, names: Iterable[str]) -> None:
    """Above 0 and at most 1."""
    for name in names:
        if (value := getattr(options, name)) is not None and not 0 < value <= 1:
            raise ConfigError(f"pipeline {pipeline!r}: {name} must be above 0 and at most 1, got {value}")


def check_sampling(pipeline: str, options: Any) -> None:
    """The sampling options have no effect on greedy decoding."""
    if not options.do_sample and any(getattr(options, name) != getattr(type(options), name) for name in SAMPLING_OPTIONS):
        raise ConfigError(f"pipeline {pipeline!r}: temperature, top_k and top_p need do_sample: true")


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of option `dtype`; `auto` is float32 on a CPU and bfloat16 elsewhere."""
    import torch

    dtype: torch.dtype = getattr(torch, name if name != "auto" else "float32" if device.type == "cpu" else "bfloat16")
    return dtype
