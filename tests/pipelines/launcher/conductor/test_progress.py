"""The live display, as far as it shows in rich's task."""

from __future__ import annotations

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


def test_a_display_that_is_not_shown_only_counts() -> None:
    with RunProgress("samples", "performance", 1, shown=False) as hidden:
        hidden.ready(1)
        hidden.total(1)
        hidden.answered(0, 1, 0)
        assert hidden._progress is None
