"""TEST06, TEST07 and TEST09: verdicts on runs and logs made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from metrics.base import Run
from metrics.mlperf.compliance.judge import judge
from tests.metrics.conftest import write_run
from tests.metrics.mlperf.compliance.conftest import END, answer, judge_run, logged, logs
from workloads.records import Sample

TEST06_FAULTS = [
    ({"token_data": "05000000"}, "holds", "First token check pass: True"),
    ({}, "holds", "First token check pass: Skipped"),
    ({"token_data": "06000000"}, "fails", "First token check pass: False"),
    ({"token_count": 11}, "fails", "Sample length check pass: False"),
    ({"tokens": (5, 6, 7, 8, 9, 5, 6, 7, END, END)}, "fails", "EOS check pass: False"),
]


@pytest.mark.parametrize(("fields", "result", "line"), TEST06_FAULTS)
def test_tokens_must_be_as_reported_and_counted(reference: Run, fields: dict[str, Any], result: str, line: str) -> None:
    reported: dict[str, Any] = {"token_data": "05000000"} if "token_data" in fields else {}
    answers = [logged(0, **fields), *(logged(i, **reported) for i in range(1, 10))]
    verdict, files = judge_run(reference, "TEST06", [answer(i) for i in range(10)], answers)
    assert verdict.result == result
    text = (files / "verify_accuracy.txt").read_text(encoding="utf-8")
    assert line in text
    assert ("verification complete" in text) == (result == "holds")


def test_a_pipeline_without_token_ids_does_not_pass(reference: Run) -> None:
    verdict, files = judge_run(reference, "TEST06", [answer(i) for i in range(10)], [logged(i, data="AB" * 8) for i in range(10)])
    assert verdict.result == "not held"
    assert "toy_llm" in verdict.message
    assert not (files / "verify_accuracy.txt").exists()


@pytest.mark.parametrize(("num_wrong", "result"), [(0, "holds"), (1, "fails")])
def test_accuracy_in_performance_mode_is_compared_with_the_runs_own(reference: Run, num_wrong: int, result: str) -> None:
    records = [answer(i, text="no" if i < num_wrong else "yes") for i in range(10)]
    verdict, files = judge_run(reference, "TEST07", records, [logged(i) for i in range(10)])
    assert verdict.result == result
    assert "99% of the run's own exact_match, 1" in verdict.basis
    assert f"Accuracy score: {1 - num_wrong / 10:g}" in (files / "verify_accuracy.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(("length", "result"), [(9, "holds"), (8, "fails"), (12, "fails")])
def test_answers_must_be_as_long_as_the_runs_own(reference: Run, length: int, result: str) -> None:
    answers = [logged(i, [*range(1, length), END]) for i in range(10)]
    verdict, files = judge_run(reference, "TEST09", [answer(i) for i in range(10)], answers)
    assert verdict.result == result
    assert f"Mean output tokens: {length:.2f}" in (files / "verify_output_len.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(("num_right", "result"), [(6, "fails"), (7, "holds")])
def test_gpt_oss_is_compared_with_the_official_threshold_whatever_the_runs_metrics(reference: Run, num_right: int, result: str) -> None:
    samples = [Sample(i, f"question {i}", {"answer": "B", "scored_by": "gpqa", "subset": "gpqa"}) for i in range(10)]
    target = reference.folder.with_name("run-compliance")
    letters = ["B" if i < num_right else "C" for i in range(10)]
    records = [answer(i, text=f"assistantfinal Answer: {letter}") for i, letter in enumerate(letters)]
    folder = write_run(target / "runs/TEST07", samples, records, metrics=["tokens"], benchmark="gpt-oss-120b")
    logs(folder, [logged(i) for i in range(10)])
    config = reference.config.model_copy(update={"benchmark": "gpt-oss-120b"})
    verdict = judge("TEST07", replace(reference, config=config), target)
    assert (verdict.result, verdict.figures) == (result, {"gpt_oss_gpqa": 10.0 * num_right})
    assert verdict.basis == "at least 60.7: official: 60.698 on GPQA"
