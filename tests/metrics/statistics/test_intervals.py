from __future__ import annotations

import numpy as np
import pytest

from metrics.statistics.intervals import mean_interval, min_queries, percentile, percentile_bound, wilson_interval


def test_wilson_interval_of_a_worked_example() -> None:
    # 9 of 10: centre (0.9 + z^2/20) / (1 + z^2/10) with z = 1.96
    low, high = wilson_interval(9, 10)
    assert (low, high) == pytest.approx((0.5958, 0.9821), abs=1e-4)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_mean_interval_of_a_worked_example() -> None:
    # mean 2, s = 1, n = 3: half width t(0.975, 2) / sqrt(3) = 4.3027 / 1.7321
    assert mean_interval([1, 2, 3]) == pytest.approx((2 - 2.4841, 2 + 2.4841), abs=1e-4)
    assert mean_interval([1.0]) is None


@pytest.mark.parametrize(("share", "num_over", "needed"), [(0.99, 0, 459), (0.99, 1, 662), (0.90, 1, 64)])
def test_floors_of_early_stopping_are_loadgens(share: float, num_over: int, needed: int) -> None:
    assert min_queries(share, num_over) == needed


@pytest.mark.parametrize(("n", "t"), [(64, 1), (100, 3), (128, 5)])
def test_the_bound_is_the_t_th_largest_as_in_published_logs(n: int, t: int) -> None:
    assert percentile_bound(list(range(n)), 0.90) == n - t


def test_too_few_values_have_no_bound() -> None:
    assert percentile_bound([1.0] * 63, 0.90) is None


def test_the_bound_holds_in_99_of_100_runs() -> None:
    rng = np.random.default_rng(0)
    truth = -np.log(0.1)  # p90 of a unit exponential
    covered = [float(percentile_bound(list(rng.exponential(size=100)), 0.90) or 0) >= truth for _ in range(2000)]
    assert np.mean(covered) >= 0.985


def test_percentile_is_the_value_at_the_floor() -> None:
    assert percentile([4, 1, 3, 2], 0.5) == 3
    assert percentile([1, 2], 0.99) == 2
