"""TEST01 and TEST04: verdicts on runs and logs made by hand."""

from __future__ import annotations

from typing import Any

import pytest

from metrics.base import Run
from tests.metrics.conftest import write_run
from tests.metrics.mlperf.compliance.conftest import SAMPLES, answer, judge_run, logged, logs, repeated


@pytest.mark.parametrize(("rate", "result"), [(60.0, "holds"), (109.0, "holds"), (111.0, "fails")])
def test_the_same_sample_may_be_a_tenth_faster_and_no_more(reference: Run, rate: float, result: str) -> None:
    verdict, files = judge_run(reference, "TEST04", repeated(), result_samples_per_second=rate)
    assert verdict.result == result
    assert verdict.figures["speed_ratio"] == pytest.approx(rate / 100)
    text = (files / "verify_performance.txt").read_text(encoding="utf-8")
    assert ("TEST PASS" in text) == (result == "holds")
    assert f"= {rate / 100:.4f}" in text
    assert sorted(p.name for p in (files / "performance/run_1").iterdir()) == ["mlperf_log_detail.txt", "mlperf_log_summary.txt"]


def test_of_streams_the_inverse_of_the_latency_is_the_speed(reference: Run) -> None:
    stream: dict[str, Any] = {"effective_scenario": "SingleStream", "early_stopping_latency_ss": 100_000_000}
    logs(reference.folder, **stream)
    verdict, _ = judge_run(reference, "TEST04", repeated(), **stream | {"early_stopping_latency_ss": 50_000_000})
    assert verdict.figures["speed_ratio"] == pytest.approx(2.0)
    assert verdict.result == "fails"


def test_an_invalid_log_fails_however_slow(reference: Run) -> None:
    verdict, files = judge_run(reference, "TEST04", repeated(), result_validity="INVALID", result_invalid_reason="too short")
    assert verdict.result == "fails"
    assert "too short" in verdict.message
    assert "TEST FAIL" in (files / "verify_performance.txt").read_text(encoding="utf-8")


def test_settings_of_a_test_that_were_not_effective_fail_it(reference: Run) -> None:
    verdict, _ = judge_run(reference, "TEST04", [answer(i) for i in range(10)])
    assert verdict.result == "fails"
    assert "10 different samples instead of 1" in verdict.message


@pytest.mark.parametrize(("again", "result"), [(205.0, "holds"), (400.0, "fails")])
def test_a_machine_that_became_faster_is_no_cache(reference: Run, again: float, result: str) -> None:
    runs = reference.folder.with_name("run-compliance") / "runs"
    for name, rate in (("TEST04-control-1", 200.0), ("TEST04-again-1", again)):
        logs(write_run(runs / name, SAMPLES, repeated()), result_samples_per_second=rate)
    verdict, files = judge_run(reference, "TEST04", repeated(), result_samples_per_second=200.0)
    assert verdict.result == result
    assert "2.00x the speed of the run" in verdict.message
    assert f"{again / 200:.3f}" in (files / "verify_performance.txt").read_text(encoding="utf-8")


def test_a_query_that_failed_fails_the_test(reference: Run) -> None:
    records = [*repeated(), answer(20, sample_index=3, status="failed", error="out of memory")]
    verdict, _ = judge_run(reference, "TEST04", records)
    assert verdict.result == "fails"
    assert "1 of 21 queries failed, first: out of memory" in verdict.message


def test_answers_of_performance_mode_must_equal_those_of_accuracy_mode(reference: Run) -> None:
    verdict, files = judge_run(reference, "TEST01", [answer(i) for i in range(10)], [logged(i) for i in range(10)])
    assert verdict.result == "holds"
    assert "10 of 10 answers" in verdict.message
    assert "TEST PASS" in (files / "verify_accuracy.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(("text", "result"), [("Yes", "holds"), ("no", "fails")])
def test_answers_that_differ_must_score_as_high(reference: Run, text: str, result: str) -> None:
    other = [answer(i, **({"digest": "cd" * 8, "text": text} if i == 0 else {})) for i in range(10)]
    verdict, files = judge_run(reference, "TEST01", other, [logged(i) for i in range(10)])
    assert verdict.result == result
    assert "9 of 10 answers" in verdict.message
    assert (files / "accuracy/baseline_accuracy.txt").read_text(encoding="utf-8") == "exact_match: 1\n"


def test_a_slow_test_fails_where_performance_has_to_be_the_same(reference: Run) -> None:
    verdict, _ = judge_run(
        reference, "TEST01", [answer(i) for i in range(10)], [logged(i) for i in range(10)], result_samples_per_second=89.0
    )
    assert verdict.result == "fails"
