"""Throughput: answers and units (frames, tokens) per second."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from configs.registry import register
from metrics.base import Figure, Metric, Run


@register("throughput")
@dataclass(frozen=True)
class Throughput(Metric):
    """Answers and units per second, over all ranks. Failed queries count in the time, not in the answers. Higher is better.

    throughput = answers / (last completion - first issue)
    Source: MLPerf LoadGen, results.cc (Offline: samples per second).
    """

    headings: ClassVar[Mapping[str, tuple[str, ...]]] = {"Speed": ("_per_s",)}

    def compute(self, run: Run) -> Mapping[str, Figure]:
        records = run.timed
        done = [r for r in records if r.status == "done"]
        span_s = max((r.completed_s for r in records), default=0.0) - min((r.issued_s for r in records), default=0.0)
        if span_s <= 0:
            return {}
        noun, unit = run.workload.noun, run.workload.unit
        num_units = sum(r.num_units for r in done)
        return {
            f"{noun}_per_s": Figure(len(done) / span_s, f"{noun}/s", "higher", len(records)),
            f"{unit}_per_s": Figure(num_units / span_s, f"{unit}/s", "higher", len(records)),
        }
