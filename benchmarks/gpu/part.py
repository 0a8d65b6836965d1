"""What a part of the GPU proof is: its name and time, what it is told, and how it says that it cannot run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

Keep = Callable[[str, Any], None]  # a figure by name, kept at once; the same name again takes its place


class Part(NamedTuple):
    """module: has `measure(job, keep)` and `summary(figures)`.

    process: parts that follow one another in the same one share it, and its imports with it. limit_s: the longest that it may take.
    needs_s: with less left of the budget it is not begun.
    """

    name: str
    module: str
    process: str
    limit_s: float
    needs_s: float


# What each is reckoned to take stands in docs/engines.md, "GPU proof"; the limits leave room over that. What others rest on, and what is
# cheap, comes first; compilers, whose time nobody knows, last.
PARTS = (
    Part("tests", "benchmarks.gpu.parts.gpu_tests", "tests", 120, 20),
    Part("ceilings", "benchmarks.gpu.parts.ceilings", "ceilings", 45, 15),
    Part("panels", "benchmarks.gpu.parts.panels", "runs", 120, 25),
    Part("quality", "benchmarks.gpu.parts.quality", "runs", 90, 40),
    Part("wan", "benchmarks.gpu.parts.wan", "models", 90, 30),
    Part("llama", "benchmarks.gpu.parts.llama", "models", 90, 30),
    Part("caches", "benchmarks.gpu.parts.caches", "models", 90, 25),
    Part("quantisation", "benchmarks.gpu.parts.quantisation", "models", 75, 20),
    Part("attention", "benchmarks.gpu.parts.attention", "models", 45, 15),
    Part("compiled", "benchmarks.gpu.parts.compiled", "models", 120, 40),
)


@dataclass(frozen=True)
class Job:
    """What a part is told.

    device: torch's name. folder: shared by all parts, and gone at the end. named: parts that were asked for by name.
    ceilings: the figures of the part of that name, empty where there are none. ends_s: when its time is over, on time.monotonic's clock.
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
    """Why a part, or one thing in it, is not run here: a package that is missing, a device that cannot."""


def not_run(why: str) -> dict[str, Any]:
    """In place of figures."""
    return {"ran": False, "why": why}
