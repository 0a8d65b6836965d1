"""Latency percentiles, with LoadGen's early-stopping bound."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from configs.registry import register
from metrics.base import Figure, Metric, Run
from metrics.statistics.intervals import min_queries, percentile_bound, percentile_index
from workloads.records import Record

SHARES = (0.50, 0.90, 0.99)


@register("latency")
@dataclass(frozen=True)
class Latency(Metric):
    """Seconds from a query's issue to its answer. Lower is better.

    latency_p90 is the percentile of the measured latencies, as LoadGen computes it. latency_p90_bound is the latency that 90 %
    of all queries stay under with 99 % confidence; it needs 64 queries, p99 needs 662, and with fewer the note says so.
    A multi_stream query is as slow as its slowest sample. Offline queries are all issued at once, so their latency is
    their position in the queue, and only the mean time in service is given.
    """

    headings: ClassVar[Mapping[str, tuple[str, ...]]] = {"Speed": ("latency_", "service_")}

    def compute(self, run: Run) -> Mapping[str, Figure]:
        if run.config.scenario == "offline":
            return _service(run.timed)
        latencies = query_latencies(run.timed, run.config.scenario)
        if not latencies:
            return {}
        return percentile_figures("latency", latencies)


def percentile_figures(name: str, seconds: Sequence[float] | NDArray[np.float64], note: str = "", bounds: bool = True) -> dict[str, Figure]:
    """Mean and percentiles of seconds, lower is better: {name}_mean, {name}_p50, {name}_p90, {name}_p90_bound ...

    bounds: whether to include early-stopping bounds, which hold only for independent values.
    """
    n = len(seconds)
    if not n:
        return {}
    figures = {f"{name}_mean": Figure(math.fsum(seconds) / n, "s", "lower", n, note=note)}
    ordered = np.asarray(seconds, float)
    if not bool((ordered[1:] >= ordered[:-1]).all()):  # sorted once for all percentiles: there are millions of gaps between tokens
        ordered = np.sort(ordered)
    for share in SHARES:
        figures |= _percentile(f"{name}_p{share * 100:.0f}", ordered, share, note, bounds and share > 0.5)
    return figures


def query_latencies(records: Sequence[Record], scenario: str) -> list[float]:
    """Seconds of each LoadGen query; a failed one lasts until it was abandoned."""
    if scenario != "multi_stream":
        return [r.latency_s for r in records]
    slowest: dict[int, float] = {}
    for record in records:
        slowest[record.group] = max(slowest.get(record.group, 0.0), record.latency_s)
    return list(slowest.values())


def _percentile(name: str, ordered: NDArray[np.float64], share: float, note: str, bound: bool) -> dict[str, Figure]:
    n, needed = len(ordered), min_queries(share, 1)
    if share > 0.5 and n < needed:
        why = f"n too small: p{share * 100:.0f} needs {needed}"
        return {name: Figure(None, "s", "lower", n, note=why)}
    figures = {name: Figure(float(ordered[percentile_index(n, share)]), "s", "lower", n, note=note)}
    if bound:
        figures[f"{name}_bound"] = Figure(percentile_bound(ordered, share), "s", "lower", n, note="with 99 % confidence")
    return figures


def _service(records: Sequence[Record]) -> dict[str, Figure]:
    served = [r.completed_s - r.started_s for r in records if r.started_s is not None and r.status == "done"]
    if not served:
        return {}
    return {"service_mean": Figure(sum(served) / len(served), "s", "lower", len(served), note="a batch's time, without the queue")}
