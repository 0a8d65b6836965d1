from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from configs.errors import ConfigError
from workloads.loadgen.logs import LoadGenLog, read_detail


def _line(key: str, value: Any, is_error: bool = False) -> str:
    return ":::MLLOG " + json.dumps({"key": key, "value": value, "metadata": {"is_error": is_error}}) + "\n"


@pytest.mark.parametrize(
    ("values", "score", "speed"),
    [
        ({"effective_scenario": "Offline", "result_samples_per_second": 3.5}, 3.5, 3.5),
        ({"effective_scenario": "Server", "result_completed_samples_per_sec": 2}, 2.0, 2.0),
        ({"effective_scenario": "SingleStream", "early_stopping_latency_ss": 500_000_000}, 5e8, 2.0),  # nanoseconds
        ({"effective_scenario": "MultiStream", "early_stopping_latency_ms": 250_000_000}, 2.5e8, 4.0),
        ({"effective_scenario": "SingleStream", "early_stopping_latency_ss": 0}, None, None),  # too few queries
        ({"effective_scenario": "Offline"}, None, None),
        ({}, None, None),
    ],
)
def test_a_log_has_loadgens_figure_and_its_speed(values: dict[str, Any], score: float | None, speed: float | None) -> None:
    log = LoadGenLog(Path("log"), values, [])
    assert (log.score, log.speed) == (score, speed)


def test_of_each_key_the_last_value_counts_and_errors_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "mlperf_log_detail.txt"
    lines = [_line("result_validity", "INVALID"), "a note of LoadGen's\n", _line("error", "too late", is_error=True)]
    file.write_text("".join([*lines, _line("result_validity", "VALID")]), encoding="utf-8")
    log = read_detail(file)
    assert (log.valid, log.errors) == (True, ["too late"])


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mlperf_log_detail.txt"
    file.write_text(_line("a", 1) + ":::MLLOG {cut", encoding="utf-8")
    with pytest.raises(ConfigError, match="line 2"):
        read_detail(file)
