"""Departures from MLPerf's rules in LoadGen's own log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from metrics.validity.mlperf_rules import departures
from workloads.mlperf.benchmarks import benchmark

KEPT = {
    "effective_scenario": "Server",
    "effective_test_mode": "PerformanceOnly",
    "effective_qsl_rng_seed": 2085463073848966840,
    "effective_sample_index_rng_seed": 2747215439041700203,
    "effective_schedule_rng_seed": 16159082839903944936,
    "qsl_reported_total_count": 6396,
    "effective_min_duration_ms": 600000,
    "effective_min_query_count": 100,
    "effective_sample_concatenate_permutation": True,
    "effective_target_latency_percentile": 0.99,
    "requested_use_token_latencies": True,
    "requested_server_ttft_latency": 3_000_000_000,
    "requested_server_tpot_latency": 80_000_000,
}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, None),
        ({"effective_schedule_rng_seed": 1}, "effective_schedule_rng_seed is 1, must be 16159082839903944936"),
        ({"effective_min_duration_ms": 599_999}, "effective_min_duration_ms is 599999, must be at least 600000"),
        ({"qsl_reported_total_count": 64}, "qsl_reported_total_count is 64"),
        ({"requested_server_tpot_latency": 80_000_001}, "requested_server_tpot_latency is 80000001 ns, must be at most 80000000"),
        ({"requested_server_tpot_latency": 70_000_000}, None),
        ({"effective_sample_concatenate_permutation": False}, "permutation is False"),
        ({"effective_target_latency_percentile": 0.9}, "percentile is 0.9"),
        ({"effective_test_mode": "AccuracyOnly"}, "mode is AccuracyOnly"),
        ({"requested_use_token_latencies": False}, "token_latencies is False"),
    ],
)
def test_a_departure_shows_in_loadgens_own_log(tmp_path: Path, change: dict[str, Any], problem: str | None) -> None:
    _write_log(tmp_path, KEPT | change)
    found = departures(tmp_path, benchmark("gpt-oss-120b", "v6.1"), "server", "performance")
    assert [problem in one for one in found if problem] == [True] * len(found)
    assert bool(found) == bool(problem)


def test_errors_of_loadgen_and_a_missing_log_are_departures(tmp_path: Path) -> None:
    found = benchmark("gpt-oss-120b", "v6.1")
    assert "cannot be checked" in departures(tmp_path, found, "server", "performance")[0]
    _write_log(tmp_path, KEPT, "a sample was completed twice")
    assert departures(tmp_path, found, "server", "performance") == [
        "LoadGen logged 1 errors in the performance test, first: a sample was completed twice"
    ]


def _write_log(folder: Path, values: dict[str, Any], error: str = "") -> None:
    lines = [{"key": key, "value": value, "metadata": {"is_error": False}} for key, value in values.items()]
    lines += [{"key": "error_runtime", "value": error, "metadata": {"is_error": True}}] if error else []
    text = "".join(f":::MLLOG {json.dumps(line)}\n" for line in lines)
    (folder / "mlperf_log_detail.txt").write_text(text, encoding="utf-8")
