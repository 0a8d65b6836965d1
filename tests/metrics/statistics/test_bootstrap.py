"""Bootstrap intervals of means, and of ratios of sums with pairs in clusters."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from metrics.statistics.bootstrap import bca_interval, clustered_ratio, joint_clusters, log_ratio_intervals
from tests.metrics.statistics.conftest import three_deviations


def test_the_interval_of_means_is_scipys_bca_at_levels_widened_as_t_is() -> None:
    d = np.random.default_rng(4).exponential(size=25)
    tail = float(stats.norm.cdf(math.sqrt(25 / 24) * stats.t.ppf(0.025, 24)))
    scipys = stats.bootstrap((d,), np.mean, confidence_level=1 - 2 * tail, n_resamples=40_000, method="BCa", rng=np.random.default_rng(0))
    ours = bca_interval(list(d))
    assert ours is not None
    assert tuple(ours) == pytest.approx(tuple(scipys.confidence_interval), abs=0.02 * d.std())
    assert ours == bca_interval(list(d))  # the same seed, the same interval


def test_a_speed_up_is_the_ratio_of_the_sums() -> None:
    found = clustered_ratio([4.0, 6.0, 5.0, 5.0] * 8, [2.0, 3.0, 2.0, 3.0] * 8)
    assert found.value == 2.0
    assert found.ci95 is not None
    assert 1.85 < found.ci95.low < 2.0 < found.ci95.high < 2.15
    assert (found.n, found.num_clusters) == (32, 32)


def test_pairs_of_one_batch_count_as_one_observation() -> None:
    rng = np.random.default_rng(5)
    reference = np.repeat(rng.lognormal(0.5, 0.3, 16), 8)
    candidate = np.repeat(rng.lognormal(0.0, 0.3, 16), 8)
    batches = [f"batch {i // 8}" for i in range(128)]
    singly, whole = clustered_ratio(list(reference), list(candidate)), clustered_ratio(list(reference), list(candidate), batches)
    assert singly.value == pytest.approx(whole.value)
    assert singly.ci95 is not None
    assert whole.ci95 is not None
    assert whole.num_clusters == 16
    assert math.log(whole.ci95.high / whole.ci95.low) > 2.2 * math.log(singly.ci95.high / singly.ci95.low)
    assert clustered_ratio([1.0, 2.0], [1.0, 1.0], ["a", "a"]).ci95 is None


def test_a_speed_ups_interval_holds_the_truth_where_batches_share_their_time() -> None:
    rng = np.random.default_rng(6)
    own = rng.lognormal(0, 0.3, (1000, 24))
    low, high = log_ratio_intervals(own * rng.lognormal(0.5, 0.2, own.shape), own * rng.lognormal(0, 0.2, own.shape), 0.95, rng, 1000)
    assert abs(((low <= 0.5) & (high >= 0.5)).mean() - 0.945) <= three_deviations(0.945, 1000)


def test_clusters_of_both_runs_are_joined_where_they_share_a_pair() -> None:
    assert joint_clusters("aabbcc", "xxyyyz") == [0, 0, 1, 1, 1, 1]  # b and c meet in y; z is the last of c
    assert joint_clusters([1, 2, 3]) == [0, 1, 2]
