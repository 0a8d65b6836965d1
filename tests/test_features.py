"""The table of what runs is what the tests said, and leaves out no feature that a test is marked with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.features import PAGE, RESULTS, Told, keep, page_with, table, told


def test_the_page_has_the_table_of_the_results() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == page_with(page, json.loads(RESULTS.read_text(encoding="utf-8"))), "run: python -m tests.features"


def test_every_marked_feature_is_in_the_results(request: pytest.FixtureRequest) -> None:
    known = {(t["engine"], t["feature"]) for all_told in json.loads(RESULTS.read_text(encoding="utf-8")).values() for t in all_told}
    marks = [dict(mark) for item in request.session.items for name, mark in item.user_properties if name == "feature"]  # type: ignore[call-overload]
    marked = {(mark["engine"], mark["feature"]) for mark in marks}
    assert marked <= known, f"run: make features; new are {sorted(marked - known)}"


def test_no_feature_of_the_results_fails() -> None:
    found = [t for all_told in json.loads(RESULTS.read_text(encoding="utf-8")).values() for t in all_told if t["state"] == "failed"]
    assert found == []


@pytest.mark.parametrize(
    ("refused", "outcome", "state", "why"),
    [
        (None, "passed", "runs", "seen"),
        ("no kernel", "passed", "not possible", "no kernel"),
        (None, "skipped", "written, not run", "needs a GPU"),
        ("no kernel", "failed", "failed", "its test fails"),
    ],
)
def test_an_outcome_is_a_word_on_the_feature(refused: str | None, outcome: str, state: str, why: str) -> None:
    mark = {"engine": "e", "feature": "f", "refused": refused, "note": "seen"}
    assert told(mark, outcome, "needs a GPU") == Told("e", "f", state, why)


def test_the_best_place_counts_but_a_failure_counts_more() -> None:
    cpu, gpu = Told("e", "f", "not possible", "no kernel"), Told("e", "f", "runs", "")
    assert "| `e` | f | runs | GPU; refused elsewhere: no kernel |" in table({"CPU": [cpu._asdict()], "GPU": [gpu._asdict()]})
    failed = Told("e", "f", "failed", "its test fails")
    assert "| `e` | f | failed | its test fails |" in table({"CPU": [failed._asdict()], "GPU": [gpu._asdict()]})


def test_what_was_not_tried_again_stays_and_what_was_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "features.json"
    keep(file, "CPU", [Told("e", "f", "failed", "its test fails"), Told("e", "g", "runs", "")])
    keep(file, "CPU", [Told("e", "f", "runs", "")])
    assert [(t["feature"], t["state"]) for t in json.loads(file.read_text())["CPU"]] == [("f", "runs"), ("g", "runs")]
