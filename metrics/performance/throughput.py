"""Throughput: answers and units (frames, tokens) per second."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from configs.registry import register
from metrics.base import Figure, Metric, Run
from metrics.performance.speed import rate
from workloads.records import Record


@register("throughput")
@dataclass(frozen=True)
class Throughput(Metric):
    """Answers and units per second, over all ranks. Failed queries count in the time, not in the answers. Higher is better.

    throughput = answers / (last completion - first issue)
    The interval covers how the speed varied within the test (speed.py); compare has the same. A run whose speed was unsteady says so, and
    one that is too short for an interval. An accuracy test is not timed.
    Source: MLPerf LoadGen, results.cc (Offline: samples per second).
    """

    headings: ClassVar[Mapping[str, tuple[str, ...]]] = {"Speed": ("_per_s",)}

    def compute(self, run: Run) -> Mapping[str, Figure]:
        noun, unit = run.workload.noun, run.workload.unit
        return rate_figure(run, f"{noun}_per_s", noun, lambda _: 1) | rate_figure(run, f"{unit}_per_s", unit, lambda r: r.num_units)


def rate_figure(run: Run, name: str, unit: str, amount: Callable[[Record], float], note: str = "") -> dict[str, Figure]:
    """A rate with its interval, or with the reason for none; empty where nothing was timed."""
    speed = rate(run, unit, amount)
    if speed is None:
        return {}
    remarks = [remark for remark in (note, speed.unsteady, "" if speed.ci95 else speed.how) if remark]
    return {name: Figure(speed.value, speed.unit, "higher", len(run.timed), speed.ci95, "; ".join(remarks))}
