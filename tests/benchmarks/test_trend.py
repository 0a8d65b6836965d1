"""Regressions are changes for the worse that are larger than a figure's own spread, on the same machine."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from benchmarks import trend
from benchmarks.outcome import RESULTS


def result(value: float, repeats: list[float], better: Literal["higher", "lower"] = "higher", processor: str = "one") -> dict[str, Any]:
    figure = {"value": value, "unit": "queries/s", "better": better, "goal": None, "repeats": repeats}
    return {"name": "made", "machine": "x86_64", "processor": processor, "cpus": 2, "figures": {"rate": figure}}


def test_a_change_within_the_spread_of_repeats_is_no_regression() -> None:
    history = [result(100, [90, 100, 110]), result(85, [84, 85, 86])]
    assert trend.find_regressions("made", history) == []
    assert trend.find_regressions("made", [*history[:1], result(79, [78, 79, 80])]) == [trend.Regression("made", "rate", 100, 79, 20)]


def test_what_is_better_lower_regresses_upwards() -> None:
    history = [result(10, [], "lower"), result(12, [], "lower")]
    assert [r.latest for r in trend.find_regressions("made", history)] == [12]
    assert trend.find_regressions("made", history[::-1]) == []


def test_another_processor_and_the_results_of_before_the_history_are_not_compared() -> None:
    before = {"name": "made", "value": 500, "unit": "queries/s", "goal": 400, "holds": True, "machine": "x86_64", "cpus": 2}
    assert trend.find_regressions("made", [before, result(100, [], processor="other"), result(50, [])]) == []


def test_the_stored_results_are_readable(capsys: pytest.CaptureFixture[str]) -> None:
    assert trend.main([]) in (0, 1)
    shown = capsys.readouterr().out
    assert all(f"== {path.stem}\n" in shown for path in RESULTS.glob("*.jsonl"))
    assert "before  -" in shown
