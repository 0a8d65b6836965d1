from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from metrics.statistics.paired_means import p_mean_at_most
from metrics.statistics.power_analysis import pairs_for_mean, power_of_mean
from tests.metrics.statistics.conftest import three_deviations


@pytest.mark.parametrize(("n", "distance", "alpha"), [(20, 3, 0.05), (30, 3, 0.05), (30, 4, 0.005), (100, 3, 0.05)])
def test_without_a_tail_the_power_is_that_of_students_t(n: int, distance: float, alpha: float) -> None:
    """distance: of the true mean from the bound, in standard errors. The bound is so far out that the pair the test adds is none."""
    exact = float(stats.nct.sf(stats.t.ppf(1 - alpha, n - 1), n - 1, distance))
    assert power_of_mean(n, -10.0, distance / math.sqrt(n) - 10.0, 1.0, alpha, reach=1.0) == pytest.approx(exact, abs=0.002)


@pytest.mark.parametrize(("margin", "spread", "reach", "target"), [(0.02, 0.01, 1.0, 0.8), (0.05, 0.1, 1.0, 0.9), (0.5, 1.0, 10.0, 0.8)])
def test_pairs_are_enough_against_rare_collapses(margin: float, spread: float, reach: float, target: float) -> None:
    n = pairs_for_mean(-margin, 0.0, spread, 0.05, target, reach)
    assert n is not None
    assert n >= math.log(0.05) / math.log(1 - margin / reach)
    d = np.random.default_rng(1).normal(0, spread, (1500, n))
    assert (p_mean_at_most(d, -margin, reach) <= 0.05).mean() >= target - three_deviations(target, 1500) - 0.01
