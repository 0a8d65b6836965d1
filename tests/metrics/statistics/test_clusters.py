"""Answers to one prompt taken as a whole."""

from __future__ import annotations

import numpy as np
import pytest

from metrics.statistics.clusters import clustered_interval, prompt_cluster
from metrics.statistics.intervals import mean_interval
from tests.metrics.statistics.conftest import three_deviations


def test_prompts_of_the_same_words_about_the_same_images_are_one() -> None:
    assert prompt_cluster("A red square moves.") == prompt_cluster("the red  square MOVES")
    assert prompt_cluster("what is 5 - 3?") != prompt_cluster("what is 5 + 3?")
    assert prompt_cluster("a red square") != prompt_cluster("a square red")
    assert prompt_cluster("what colour?", (b"1",)) != prompt_cluster("what colour?", (b"2",))


def test_single_answers_have_students_interval() -> None:
    values = [0.2, 0.5, 0.9, 0.4]
    assert clustered_interval(values, range(4), is_share=False) == pytest.approx(mean_interval(values))
    assert clustered_interval(values, [1, 1, 1, 1], is_share=False) is None


@pytest.mark.parametrize("is_share", [True, False])
def test_intervals_of_answers_in_clusters_hold_the_truth(is_share: bool) -> None:
    """16 prompts of four answers each, three quarters of which go with the prompt."""
    rng, held, singly = np.random.default_rng(0), 0, 0
    labels = np.repeat(np.arange(16), 4)
    for _ in range(1000):
        own, each = rng.random((16, 1)), rng.random((16, 4))
        scores = np.where(rng.random((16, 4)) < 0.75, own, each).ravel()
        values = (scores < 0.7).astype(float) if is_share else scores
        low, high = clustered_interval(values.tolist(), labels.tolist(), is_share) or (0.0, 0.0)
        held += low <= (0.7 if is_share else 0.5) <= high
        one = mean_interval(values.tolist()) or (0.0, 0.0)
        singly += one[0] <= (0.7 if is_share else 0.5) <= one[1]
    assert held / 1000 >= 0.95 - three_deviations(0.95, 1000)
    assert singly / 1000 < 0.85


def test_equal_shares_are_worth_one_a_cluster() -> None:
    low, high = clustered_interval([1.0] * 20, np.repeat(range(5), 4).tolist(), is_share=True) or (0.0, 0.0)
    assert high == 1.0
    assert low < 0.57  # Wilson's of 5 answers; that of 20 is 0.84
