"""Which timed queries are repeated, and what replays make of the times that answers took."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal

import pytest

from pipelines.launcher.messages import Answer
from pipelines.launcher.replay import looks_cached, plan
from tests.conftest import record


def _answers(kind: Literal["again", "fresh"], seconds: Sequence[float], num_units: int = 1) -> list[Answer]:
    return [Answer(kind, 0, i, i, 1, answer_s=s, num_units=num_units) for i, s in enumerate(seconds)]


@pytest.mark.parametrize(
    ("again_s", "fresh_s", "cached"),
    [
        (1.0, 3.0, False),
        (1.0, 3.1, True),  # more than three times as long
        (0.001, 0.020, False),
        (0.001, 0.022, True),  # and more than 20 ms longer
    ],
)
def test_new_queries_that_take_far_longer_than_repeated_ones_look_cached(again_s: float, fresh_s: float, cached: bool) -> None:
    """The median decides: one slow answer is chance."""
    assert looks_cached([*_answers("again", [again_s] * 3), *_answers("fresh", [fresh_s, fresh_s, 0.0])]) is cached
    assert not looks_cached([*_answers("again", [again_s] * 3), *_answers("fresh", [fresh_s, 0.0, 0.0])])


def test_longer_answers_may_take_longer() -> None:
    again = _answers("again", [1.0] * 3, num_units=10)
    assert looks_cached([*again, *_answers("fresh", [6.0] * 3, num_units=10)])
    assert not looks_cached([*again, *_answers("fresh", [6.0] * 3, num_units=20)])


def test_without_both_kinds_nothing_is_compared() -> None:
    assert not looks_cached(_answers("fresh", [9.0] * 3))
    assert not looks_cached(_answers("again", [9.0] * 3))


@pytest.mark.parametrize("seed", range(5))
def test_replays_are_spread_over_the_test_and_reach_its_last_tenth(seed: int) -> None:
    records = [record(i, rank=i % 2, started_s=float(i)) for i in range(200)]
    random.Random(seed).shuffle(records)
    one_rank = plan([r for r in records if r.rank == 0], [0], 3)[0]
    last, first, middle = (again.query.id for again in one_rank)
    assert last >= 180
    assert first < 90 <= middle < 180
    for rank, repeated in plan(records, [0, 1], 3).items():
        others, own = [a.query.id for a in repeated if a.rank != rank], [a.query.id for a in repeated if a.rank == rank]
        assert [len(others), len(own)] == [2, 1]
        assert others[0] >= 180 > others[1]
        assert own[0] >= 180
    assert len({a.query.id for each in plan(records, [0, 1], 3).values() for a in each}) == 6


def test_of_a_short_test_the_nearest_queries_are_repeated() -> None:
    records = [record(0, started_s=0.0), record(1, started_s=1.0), record(2, status="failed", started_s=2.0)]
    assert sorted(again.query.id for again in plan(records, [0], 3)[0]) == [0, 1]
    assert [len(each) for each in plan(records, [0, 1], 3).values()] == [1, 1]
