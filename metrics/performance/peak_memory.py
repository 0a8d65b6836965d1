"""Peak memory of the rank that uses most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from configs.registry import register
from metrics.base import Figure, Metric, Run


@register("peak_memory")
@dataclass(frozen=True)
class PeakMemory(Metric):
    """Largest peak of all ranks, in bytes. Lower is better.

    host: resident set size of the process, including model and libraries. device: torch's peak of allocated GPU memory.
    """

    headings: ClassVar[Mapping[str, tuple[str, ...]]] = {"Cost": ("peak_",)}

    def compute(self, run: Run) -> Mapping[str, Figure]:
        figures = {}
        for where in ("host", "device"):
            peaks = [
                int(rank["memory"][where])
                for outcome in run.outcome.values()
                for rank in outcome.get("ranks", [])
                if where in rank["memory"]
            ]
            if peaks:
                figures[f"peak_{where}_memory"] = Figure(float(max(peaks)), "bytes", "lower", len(peaks))
        return figures
