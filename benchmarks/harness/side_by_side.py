"""Ways to do the same work, each once in every round, in turn: other work on the machine then meets all of them."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from benchmarks.outcome import Figure, conclude

Way = Callable[[], int]  # does the work and returns how many units it made


def compare(name: str, ways: Mapping[str, Way], ours: str, goal: float, unit: str, given: argparse.Namespace) -> None:
    """Measure the ways and conclude the benchmark of that name. In full each does its work once before; what is short has no goal."""
    if not given.short:
        for way in ways.values():
            way()
    found = rates(ways, given.rounds)
    conclude(name, against(found, ours, None if given.short else goal), given, table(found, unit))


def rates(ways: Mapping[str, Way], num_rounds: int) -> dict[str, list[float]]:
    """Units a second of each way, by round."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(num_rounds):
        for name, work in ways.items():
            began = time.perf_counter()
            num_units = work()
            found[name].append(num_units / (time.perf_counter() - began))
    return found


def against(found: Mapping[str, Sequence[float]], ours: str, goal: float | None) -> dict[str, Figure]:
    """Our rate as a multiple of each other way's, the median over the rounds."""
    figures = {}
    for name, others in found.items():
        if name != ours:
            ratios = [own / other for own, other in zip(found[ours], others, strict=True)]
            figures[f"{ours} against {name}"] = Figure(statistics.median(ratios), "times", goal=goal, repeats=ratios)
    return figures


def table(found: Mapping[str, Sequence[float]], unit: str) -> list[dict[str, Any]]:
    return [{"way": name, unit: statistics.median(each), "least": min(each), "most": max(each)} for name, each in found.items()]


def length(tokens: Sequence[int], ends: Collection[int]) -> int:
    """Tokens up to the end token, which counts."""
    return next((n for n, token in enumerate(tokens, 1) if token in ends), len(tokens))
