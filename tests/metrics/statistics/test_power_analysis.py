from __future__ import annotations

import math

import pytest
from scipy import stats

from metrics.statistics.power_analysis import power_of_mean


@pytest.mark.parametrize(("n", "distance", "alpha"), [(20, 3, 0.05), (30, 3, 0.05), (30, 4, 0.005), (100, 3, 0.05)])
def test_without_a_tail_the_power_is_that_of_students_t(n: int, distance: float, alpha: float) -> None:
    """distance: of the true mean from the bound, in standard errors. The bound is so far out that the pair the test adds is none."""
    exact = float(stats.nct.sf(stats.t.ppf(1 - alpha, n - 1), n - 1, distance))
    assert power_of_mean(n, -10.0, distance / math.sqrt(n) - 10.0, 1.0, alpha) == pytest.approx(exact, abs=0.002)
