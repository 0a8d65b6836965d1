"""Checks that the options of several pipelines have in common. All raise ConfigError naming pipeline and option."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from configs.errors import ConfigError


def check_above_nought(pipeline: str, options: Any, names: Iterable[str]) -> None:
    """options: the pipeline; those of its options that are None are not given."""
    for name in names:
        if (value := getattr(options, name)) is not None and value <= 0:
            raise ConfigError(f"pipeline {pipeline!r}: option {name!r} is {value}; it must be above 0")


def check_share(pipeline: str, options: Any, names: Iterable[str]) -> None:
    """Above 0 and at most 1."""
    for name in names:
        if (value := getattr(options, name)) is not None and not 0 < value <= 1:
            raise ConfigError(f"pipeline {pipeline!r}: option {name!r} is {value}; it must be above 0 and at most 1")


def check_sampling(pipeline: str, options: Any) -> None:
    """What shapes a draw needs one: temperature, top_k and top_p without do_sample would do nothing."""
    if not options.do_sample and (options.temperature != 1.0 or options.top_k or options.top_p):
        raise ConfigError(f"pipeline {pipeline!r}: temperature, top_k and top_p need do_sample: true")
