"""The live display, as far as it shows in rich's task."""

from __future__ import annotations

import pytest

from pipelines.launcher.conductor.progress import MAX_NAMED_RANKS, RunProgress


def test_the_display_has_what_was_issued_and_what_was_answered_by_whom() -> None:
    with RunProgress("samples", "performance", 2, shown=True) as shown:
        assert shown._progress is not None
        (task,) = shown._progress.tasks
        shown.ready(1)
        assert (task.description, task.completed, task.total) == ("loading", 1, 2)
        shown.total(8)
        assert (task.description, task.completed, task.total) == ("performance", 0, 8)
        shown.answered(0, 3, 0)
        shown.answered(1, 5, 1)
        assert (task.completed, task.total) == (8, 8)
        assert task.fields["note"].endswith("samples/s, 0 s left, rank 0: 3 rank 1: 5, 1 failed")


def test_of_many_ranks_the_least_and_the_most_are_shown() -> None:
    with RunProgress("samples", "performance", MAX_NAMED_RANKS + 1, shown=True) as shown:
        assert shown._progress is not None
        shown.total(sum(range(MAX_NAMED_RANKS + 2)))
        for rank in range(MAX_NAMED_RANKS + 1):
            shown.answered(rank, rank + 1, 0)
        assert shown._progress.tasks[0].fields["note"].endswith(f"1 to {MAX_NAMED_RANKS + 1} a rank")


def test_where_no_display_can_be_shown_lines_tell_that_the_test_began_and_how_far_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with RunProgress("samples", "performance", 1, shown=False) as hidden:
        hidden.ready(1)
        hidden.total(40)
        for now[0] in (105.0, 110.0, 111.0, 119.0, 120.0):
            hidden.answered(0, 2, 0)
    assert capsys.readouterr().err.splitlines() == [
        "suite: 1 rank ready; the performance test begins",
        "suite: performance: 4 of 40, 0.40 samples/s, 90 s left",
        "suite: performance: 10 of 40, 0.50 samples/s, 60 s left",
    ]
