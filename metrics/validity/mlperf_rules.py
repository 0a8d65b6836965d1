"""Whether a test kept to MLPerf's rules, by LoadGen's own log: its effective settings, not the requested ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from configs.errors import ConfigError
from workloads.loadgen.load_test import LOADGEN_SCENARIOS
from workloads.loadgen.logs import LoadGenLog, read_detail
from workloads.mlperf.rules import MIN_DURATION_S, Benchmark, ScenarioRules, seeds

_MODES = {"performance": "PerformanceOnly", "accuracy": "AccuracyOnly"}


def departures(folder: Path, benchmark: Benchmark, scenario: str, mode: str) -> list[str]:
    """Where the test whose logs are in `folder` departs from the rules, one sentence each; empty where it kept them."""
    try:
        log = read_detail(folder / "mlperf_log_detail.txt")
    except ConfigError as error:
        return [f"the {mode} test cannot be checked by the rules of MLPerf {benchmark.round}: {error}"]
    problems = _problems(log, benchmark, benchmark.of(scenario), mode)
    sentences = [f"the {mode} test departs from MLPerf {benchmark.round}: {problem}" for problem in problems]
    if log.errors:
        sentences.append(f"LoadGen logged {len(log.errors)} errors in the {mode} test, first: {log.errors[0]}")
    return sentences


def _problems(log: LoadGenLog, benchmark: Benchmark, rules: ScenarioRules, mode: str) -> Iterator[str]:
    expected = seeds(benchmark.round)
    _, count = rules.data(mode)
    exact: dict[str, Any] = {
        "effective_scenario": LOADGEN_SCENARIOS[rules.scenario],
        "effective_test_mode": _MODES[mode],
        "effective_qsl_rng_seed": expected.qsl,
        "effective_sample_index_rng_seed": expected.sample_index,
        "effective_schedule_rng_seed": expected.schedule,
        "qsl_reported_total_count": count,
    }
    yield from _mismatches(log, exact)
    if mode == "accuracy":
        return
    least: dict[str, float] = {"effective_min_duration_ms": MIN_DURATION_S * 1000}
    least["effective_min_sample_count" if rules.scenario == "offline" else "effective_min_query_count"] = rules.least_query_count
    for key, limit in least.items():
        if (value := log.values.get(key)) is None or value < limit:
            yield f"{key} is {value}, must be at least {limit:g}"
    yield from _mismatches(log, {"effective_sample_concatenate_permutation": benchmark.equal_issue})
    if rules.scenario in ("server", "interactive"):
        yield from _mismatches(
            log, {"effective_target_latency_percentile": rules.percentile, "requested_use_token_latencies": benchmark.by_token}
        )
        limits = rules.limits
        for key, limit_s in (
            ("requested_server_target_latency_ns", limits.target_latency_s),
            ("requested_server_ttft_latency", limits.target_ttft_s),
            ("requested_server_tpot_latency", limits.target_tpot_s),
        ):
            if limit_s is not None and ((value := log.values.get(key)) is None or value > limit_s * 1e9):
                yield f"{key} is {value} ns, must be at most {limit_s * 1e9:.0f}"


def _mismatches(log: LoadGenLog, exact: dict[str, Any]) -> Iterator[str]:
    for key, value in exact.items():
        if log.values.get(key) != value:
            yield f"{key} is {log.values.get(key)}, must be {value}"
