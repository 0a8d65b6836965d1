"""What replays make of the times that answers took."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pytest

from pipelines.launcher.messages import Answer
from pipelines.launcher.replay import looks_cached


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
