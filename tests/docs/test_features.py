"""The matrix of features is generated from the tests' results, and contains every feature that a test is marked with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.features import PAGE, RESULTS, FeatureResult, matrix, page_with, result_of, save


def test_the_page_has_the_matrix_of_the_results() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == page_with(page, json.loads(RESULTS.read_text(encoding="utf-8"))), "run: python -m tests.features"


def test_every_marked_feature_is_in_the_results(request: pytest.FixtureRequest) -> None:
    known = {(r["engine"], r["feature"]) for results in json.loads(RESULTS.read_text(encoding="utf-8")).values() for r in results}
    marks = [dict(mark) for item in request.session.items for name, mark in item.user_properties if name == "feature"]  # type: ignore[call-overload]
    marked = {(mark["engine"], mark["feature"]) for mark in marks}
    assert marked <= known, f"run: make features; new are {sorted(marked - known)}"


def test_no_feature_of_the_results_fails() -> None:
    failed = [r for results in json.loads(RESULTS.read_text(encoding="utf-8")).values() for r in results if r["state"] == "failed"]
    assert failed == []


@pytest.mark.parametrize(
    ("refused", "outcome", "state", "why"),
    [
        (None, "passed", "runs", "noted"),
        ("no kernel", "passed", "not possible", "no kernel"),
        (None, "skipped", "written, not run", "needs a GPU"),
        ("no kernel", "failed", "failed", "its test fails"),
    ],
)
def test_an_outcome_is_a_result_of_the_feature(refused: str | None, outcome: str, state: str, why: str) -> None:
    mark = {"engine": "e", "feature": "f", "refused": refused, "note": "noted"}
    assert result_of(mark, outcome, "needs a GPU") == FeatureResult("e", "f", state, why)


def test_the_best_place_counts_but_a_failure_counts_more() -> None:
    cpu, gpu = FeatureResult("e", "f", "not possible", "no kernel"), FeatureResult("e", "f", "runs", "")
    both = matrix({"CPU": [cpu._asdict()], "GPU": [gpu._asdict()]})
    assert "| f | runs | GPU; refused elsewhere: no kernel |" in both
    assert "| engine | runs |\n|---|---|\n| [`e`](#e) | 1 |" in both
    failed = FeatureResult("e", "f", "failed", "its test fails")
    assert "| f | failed | its test fails |" in matrix({"CPU": [failed._asdict()], "GPU": [gpu._asdict()]})


def test_results_of_this_run_replace_earlier_ones_and_others_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "features.json"
    save(file, "CPU", [FeatureResult("e", "f", "failed", "its test fails"), FeatureResult("e", "g", "runs", "")])
    save(file, "CPU", [FeatureResult("e", "f", "runs", "")])
    assert [(r["feature"], r["state"]) for r in json.loads(file.read_text())["CPU"]] == [("f", "runs"), ("g", "runs")]
