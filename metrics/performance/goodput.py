"""Goodput: answers within the latency limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from configs.registry import register
from configs.settings import Limits
from metrics.base import Figure, Metric, Run
from metrics.performance.throughput import rate_figure
from metrics.statistics.intervals import wilson_interval
from workloads.records import Record


@register("goodput")
@dataclass(frozen=True)
class Goodput(Metric):
    """Rate and share of answers that met every limit of a server or interactive run. Higher is better.

    goodput_per_s = answers within all limits / (last completion - first issue)
    goodput_share = answers within all limits / queries, including failed ones, which are never within them
    Each query must meet all limits; LoadGen's verdict considers one limit after the other.
    Source: Zhong et al., DistServe (OSDI 2024), whose goodput is the rate at which requests meet both limits.
    """

    headings: ClassVar[Mapping[str, tuple[str, ...]]] = {"Speed": ("goodput_",)}

    def compute(self, run: Run) -> Mapping[str, Figure]:
        limits = effective_limits(run.config.limits) if run.config.is_server else {}
        records = run.timed
        note = "within " + ", ".join(f"{name} {limit:g} s" for name, limit in limits.items())
        figures = rate_figure(run, "goodput_per_s", run.workload.noun, lambda r: within(r, limits), note) if limits else {}
        if not figures:
            return {}
        n, met = len(records), sum(within(r, limits) for r in records)
        return figures | {"goodput_share": Figure(met / n, "", "higher", n, wilson_interval(met, n), note)}


def effective_limits(limits: Limits) -> dict[str, float]:
    """Seconds by `ttft`, `tpot` or `latency`; `latency` only where no limit on tokens replaces it."""
    by_token = {"ttft": limits.target_ttft_s, "tpot": limits.target_tpot_s}
    named = by_token if limits.by_token else {"latency": limits.target_latency_s}
    return {name: limit for name, limit in named.items() if limit is not None}


def within(record: Record, limits: Mapping[str, float]) -> bool:
    """Whether an answer met every limit. An answer of one token has no TPOT and meets its limit; an unmeasured first token fails."""
    if record.status == "failed":
        return False
    measured = {"ttft": record.ttft_s, "tpot": record.tpot_s, "latency": record.latency_s}
    if record.first_token_s is not None and record.num_units < 2:
        measured["tpot"] = 0.0
    return all((seconds := measured[name]) is not None and seconds <= limit for name, limit in limits.items())
