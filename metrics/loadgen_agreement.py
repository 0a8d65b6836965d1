"""Whether LoadGen's summary and our own records tell the same story."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from metrics.base import Run
from metrics.latency import query_latencies
from metrics.statistics import percentile
from workloads.loadgen import read_summary

TOLERANCE = 0.01  # relative
CLOCK_SLACK_S = 0.005  # between our reading of the clock and LoadGen's: matters in runs under half a second


@dataclass(frozen=True, slots=True)
class Comparison:
    """One figure as LoadGen gives it and as our records give it, in the same unit."""

    name: str
    unit: str
    loadgen: float
    own: float
    slack: float  # how much CLOCK_SLACK_S can change the figure

    @property
    def agrees(self) -> bool:
        return abs(self.own - self.loadgen) <= max(TOLERANCE * abs(self.loadgen), self.slack)


def compare(run: Run) -> list[Comparison]:
    """Every figure that both have, for the performance test; empty where LoadGen left no summary."""
    summary = read_summary(run.folder / "performance")
    records = run.of_mode("performance")
    if not summary or not records:
        return []
    latencies = query_latencies(records, run.config.scenario)
    first, last = min(r.issued_s for r in records), max(r.completed_s for r in records)
    last_issued = max(records, key=lambda r: r.issued_s)  # the server scenario counts gaps, up to this query's answer
    own: Sequence[tuple[str, str, float, float]] = {
        "offline": [("Samples per second", "1/s", 1.0, len(records) / (last - first))],
        "single_stream": [
            ("90th percentile latency (ns)", "s", 1e-9, percentile(latencies, 0.90)),
            ("Mean latency (ns)", "s", 1e-9, sum(latencies) / len(latencies)),
        ],
        "multi_stream": [("Mean latency (ns)", "s", 1e-9, sum(latencies) / len(latencies))],
        "server": [
            ("Completed samples per second", "1/s", 1.0, (len(records) - 1) / (last_issued.completed_s - first)),
            ("Mean latency (ns)", "s", 1e-9, sum(latencies) / len(latencies)),
        ],
    }[run.config.scenario]
    slack = {"s": CLOCK_SLACK_S, "1/s": CLOCK_SLACK_S * len(records) / (last - first) ** 2}
    return [
        Comparison(name.removesuffix(" (ns)"), unit, float(summary[name]) * factor, value, slack[unit])
        for name, unit, factor, value in own
        if name in summary
    ]
