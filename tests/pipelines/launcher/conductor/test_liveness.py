from __future__ import annotations

import pytest

from pipelines.launcher.conductor.liveness import MIN_PATIENCE_S, Liveness


class Clock:
    """Stands in for time.monotonic."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("pipelines.launcher.conductor.liveness.time", clock)
    return clock


def watch(answer_timeout_s: float | None = None, gone: tuple[int, ...] = ()) -> Liveness:
    liveness = Liveness(lambda rank: rank not in gone, 20.0, answer_timeout_s)
    for rank in (0, 1):
        liveness.note_connection(rank, f"node{rank}")
    return liveness


def test_a_rank_whose_process_is_gone_is_named_with_its_host(clock: Clock) -> None:
    liveness = watch(gone=(1,))
    assert liveness.check(dict) is None  # it checks once a second
    clock.now += 1
    assert liveness.check(dict) is None  # its goodbye may be on its way
    clock.now += 1
    assert str(liveness.check(dict)).startswith("rank 1 on node1 died")
    liveness.note_leave(1)
    assert liveness.describe_death() is None


def test_a_silent_rank_is_named_with_its_host(clock: Clock) -> None:
    liveness = watch()
    clock.now += 21
    liveness.note_message(0)
    assert str(liveness.check(dict)).startswith("rank 1 on node1 has been silent for 20 s")


def test_a_rank_hangs_after_its_patience_without_any_answer(clock: Clock) -> None:
    liveness = watch(answer_timeout_s=5.0)
    clock.now += 10
    liveness.note_message(0)
    liveness.note_message(1)
    assert liveness.check(lambda: {1: ("query 7 (sample 3)", 4.0)}) is None  # it was idle before
    clock.now += 2
    liveness.note_answer(1)
    assert liveness.check(lambda: {1: ("query 7 (sample 3)", 6.0)}) is None  # others are answered meanwhile
    clock.now += 6
    expected = "rank 1 on node1 hangs: no answer for 5 s (answer_timeout_s) while it works on query 7 (sample 3)"
    assert liveness.check(lambda: {1: ("query 7 (sample 3)", 12.0)}) == expected


def test_patience_grows_with_the_longest_batch(clock: Clock) -> None:
    liveness = watch()
    assert liveness.patience_s == MIN_PATIENCE_S
    liveness.note_answer(0, batch_s=300.0)
    liveness.note_answer(1, batch_s=1.0)
    assert liveness.patience_s == 3000.0
