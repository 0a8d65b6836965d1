"""A part of the GPU proof: its name and time limits, its job, and the error that says it cannot run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

Keep = Callable[[str, Any], None]  # stores a figure by name, immediately; the same name again replaces it


class Part(NamedTuple):
    """module: has `measure(job, keep)` and `summary(figures)`.

    process: consecutive parts with the same name share a process and its imports. limit_s: the most that it may take.
    needs_s: with less than this left of the budget it is not started.
    """

    name: str
    module: str
    process: str
    limit_s: float
    needs_s: float


# By worth, so that a short loan of a device measures what matters: what others depend on first, then the goals of benchmarks/gpu/goals.py.
# The expected times are in docs/gpu.md; the limits are larger. Every part can run by itself (--only) into the same file.
PARTS = (
    Part("ceilings", "benchmarks.gpu.parts.ceilings", "ceilings", 45, 15),
    Part("llama", "benchmarks.gpu.parts.llama", "models", 120, 30),
    Part("engines", "benchmarks.gpu.parts.engines", "models", 170, 40),
    Part("wan", "benchmarks.gpu.parts.wan", "models", 120, 30),
    Part("panels", "benchmarks.gpu.parts.panels", "runs", 150, 25),
    Part("compiled", "benchmarks.gpu.parts.compiled", "models", 170, 40),
    Part("quantisation", "benchmarks.gpu.parts.quantisation", "models", 75, 20),
    Part("attention", "benchmarks.gpu.parts.attention", "models", 60, 15),
    Part("tests", "benchmarks.gpu.parts.gpu_tests", "tests", 120, 20),
    Part("caches", "benchmarks.gpu.parts.caches", "models", 90, 25),
    Part("quality", "benchmarks.gpu.parts.quality", "runs", 90, 40),
)


@dataclass(frozen=True)
class Job:
    """The arguments of a part.

    device: torch's name. folder: shared by all parts, deleted at the end. named: parts that were requested by name.
    ceilings: the figures of the part of that name, or empty. ends_s: the end of its time, on time.monotonic's clock.
    """

    device: str
    shrink: bool
    folder: str
    named: tuple[str, ...]
    ceilings: Mapping[str, Any]
    ends_s: float

    @property
    def left_s(self) -> float:
        return self.ends_s - time.monotonic()


class NotRunError(Exception):
    """A part, or a measurement in it, cannot run here: a package is missing, or the device does not support it."""


def not_run(why: str) -> dict[str, Any]:
    """Takes the place of figures."""
    return {"ran": False, "why": why}
