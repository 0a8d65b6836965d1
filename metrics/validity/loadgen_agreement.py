"""Compares the figures of LoadGen's summary with the same figures from our own records."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from configs.decode import reading
from configs.errors import ConfigError
from metrics.base import Run
from metrics.performance.latency import query_latencies
from metrics.statistics.intervals import percentile
from workloads.loadgen.load_test import read_summary
from workloads.records import AFTER_ANSWER, Record

TOLERANCE = 0.01  # relative
CLOCK_SLACK_S = 0.005  # between our reading of the clock and LoadGen's; matters in runs under half a second


@dataclass(frozen=True, slots=True)
class Comparison:
    """One figure by LoadGen and by our records, in the same unit."""

    name: str
    unit: str
    loadgen: float
    own: float
    slack: float  # how much CLOCK_SLACK_S can change the figure

    @property
    def agrees(self) -> bool:
        return abs(self.own - self.loadgen) <= max(TOLERANCE * abs(self.loadgen), self.slack)


def compare(run: Run) -> list[Comparison]:
    """Every figure of the performance test that both have; empty where LoadGen wrote no summary.

    Raises ConfigError where a figure is not a number, or the test takes no time.
    """
    summary = read_summary(run.folder / "performance")
    records = run.of_mode("performance")
    if not summary or not records:
        return []
    records = [msgspec.structs.replace(r, completed_s=r.closed_s) if AFTER_ANSWER in r.stages else r for r in records]
    own = _samples(records, run.config.scenario) + (_tokens(records, run.config.scenario) if run.workload.unit == "tokens" else [])
    return [
        Comparison(name.removesuffix(" (ns)"), unit, _number(run, summary, name) * (1e-9 if name.endswith("(ns)") else 1.0), value, slack)
        for name, unit, value, slack in own
        if name in summary
    ]


Own = tuple[str, str, float, float]  # LoadGen's name, unit, our value, slack


def _samples(records: Sequence[Record], scenario: str) -> list[Own]:
    latencies = query_latencies(records, scenario)
    mean: Own = ("Mean latency (ns)", "s", math.fsum(latencies) / len(latencies), CLOCK_SLACK_S)
    if scenario == "offline":
        return [("Samples per second", "1/s", *_rate(len(records), _span_s(records, scenario)))]
    if scenario == "single_stream":
        return [("90.0th percentile latency (ns)", "s", percentile(latencies, 0.90), CLOCK_SLACK_S), mean]
    if scenario == "multi_stream":
        return [mean]
    return [("Completed samples per second", "1/s", *_rate(len(records) - 1, _span_s(records, scenario))), mean]  # LoadGen counts gaps


def _tokens(records: Sequence[Record], scenario: str) -> list[Own]:
    """LoadGen's figures in token mode. For answers of one token or none they are wrong, so nothing is compared then."""
    if any(r.num_units < 2 for r in records):
        return []
    total = sum(r.num_units for r in records)
    if scenario == "offline":
        return [("Tokens per second", "tokens/s", *_rate(total, _span_s(records, scenario)))]
    firsts, paces = [[s for s in found if s is not None] for found in zip(*((r.ttft_s, r.tpot_s) for r in records), strict=True)]
    if len(firsts) < len(records) or scenario == "multi_stream":
        return []
    pace_slack = CLOCK_SLACK_S * math.fsum(1 / (r.num_units - 1) for r in records) / len(records)
    own: list[Own] = [
        ("Mean First Token latency (ns)", "s", math.fsum(firsts) / len(records), CLOCK_SLACK_S),
        ("Mean Time per Output Token (ns)", "s", math.fsum(paces) / len(records), pace_slack),
    ]
    if scenario == "single_stream":
        return own
    return [("Completed tokens per second", "tokens/s", *_rate(total, _span_s(records, scenario))), *own]


def _span_s(records: Sequence[Record], scenario: str) -> float:
    """From the first issue to the last completion; at random arrivals to the completion of the query issued last."""
    first = min(r.issued_s for r in records)
    if scenario in ("server", "interactive"):
        return max(records, key=lambda r: r.issued_s).completed_s - first
    return max(r.completed_s for r in records) - first


def _number(run: Run, summary: Mapping[str, str], name: str) -> float:
    """LoadGen's figure. Raises ConfigError where it is no finite number, with which nothing would agree, or everything."""
    with reading(f"{run.folder / 'performance/mlperf_log_summary.txt'}, {name!r},"):
        value = float(summary[name])
        if not math.isfinite(value):
            raise ValueError(f"it is {value}")
        return value


def _rate(count: int, span_s: float) -> tuple[float, float]:
    """Count per second, and how much CLOCK_SLACK_S can change it."""
    if span_s <= 0:
        raise ConfigError("records.jsonl is damaged: the queries of the timed test take no time")
    return count / span_s, CLOCK_SLACK_S * count / span_s**2
