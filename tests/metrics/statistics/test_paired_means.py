"""Means of two runs over the same prompts: worked examples, agreement with scipy, and error rates by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from metrics.statistics.bootstrap import bca_interval
from metrics.statistics.paired import compare_means, verdicts
from metrics.statistics.paired_means import mean_intervals, p_mean_at_most
from tests.metrics.statistics.conftest import three_deviations


def test_a_mean_compared_by_hand() -> None:
    reference, candidate = [0.8, 0.6, 0.9, 0.7], [0.7, 0.6, 0.8, 0.7]
    found = compare_means("m", reference, candidate, margin=0.2)
    assert found.difference == pytest.approx(-0.05)
    assert found.p_difference == pytest.approx(float(stats.ttest_rel(candidate, reference).pvalue))
    assert found.p_not_worse >= float(stats.ttest_rel(candidate, np.array(reference) - 0.2, alternative="greater").pvalue)
    turned = compare_means("m", reference, candidate, margin=0.2, better="lower")
    assert turned.difference == pytest.approx(0.05)
    assert turned.p_not_worse < found.p_not_worse


def test_the_guard_of_means_is_clopper_and_pearsons_test_where_differences_are_losses_or_nothing() -> None:
    # 3 losses of 1 in 40 pairs, against a true loss of 25 %: one-sided exact p = P(at most 3 of 40 | 0.25)
    d = np.array([-1.0] * 3 + [0.0] * 37)
    t = float(stats.t.sf((d.mean() + 0.25) / (d.std(ddof=1) / math.sqrt(40)), 39))
    exact = float(stats.binom.cdf(3, 40, 0.25))
    assert float(p_mean_at_most(d[None], -0.25)[0]) == pytest.approx(exact, rel=0.03)  # by a saddle point
    assert t < exact / 50  # what Student's t makes of it


def test_the_guards_saddle_point_agrees_with_drawn_weights() -> None:
    rng = np.random.default_rng(2)
    d = -rng.exponential(size=30)
    weights = rng.dirichlet(np.ones(31), size=100_000)
    drawn = weights @ np.append(d, d.min())
    for bound in (-1.6, -1.4, float(np.append(d, d.min()).mean())):
        p = float(p_mean_at_most(d[None], bound)[0])
        assert p == pytest.approx((drawn <= bound).mean(), abs=three_deviations(0.5, 100_000) + 0.002)


@pytest.mark.parametrize("tail", ["normal", "losses", "gains", "few"])
@pytest.mark.parametrize("n", [30, 128])
def test_a_mean_that_is_worse_by_the_margin_passes_in_at_most_one_of_twenty_audits(tail: str, n: int) -> None:
    rng = np.random.default_rng(3)
    few = rng.choice([-1, -0.5, 0, 0.5], p=[0.03, 0.07, 0.88, 0.02], size=(1500, n)) + 0.055
    d = {
        "normal": rng.normal(size=(1500, n)),
        "losses": 1 - rng.exponential(size=(1500, n)),
        "gains": rng.exponential(size=(1500, n)) - 1,
        "few": few,
    }[tail]
    for sign in (1, -1):  # false PASS, false FAIL
        rate = (p_mean_at_most(sign * (d - 0.3), -sign * 0.3) <= 0.05).mean()
        assert rate <= 0.05 + three_deviations(0.05, 1500)
    low, high = mean_intervals(d, 0.95, rng, 1000)
    covered = ((low <= 0) & (high >= 0)).mean()
    assert 0.925 - three_deviations(0.93, 1500) <= covered <= 0.965 + three_deviations(0.965, 1500)


def test_equal_differences_get_no_interval_of_zero_width() -> None:
    assert bca_interval([0.1] * 64) is None
    assert bca_interval([0.1]) is None
    scores = [i / 63 for i in range(64)]
    same = compare_means("rouge", scores, scores, margin=0.01)  # a range of 1: 64 pairs miss 4.6 % of all prompts with a chance of 5 %
    assert same.bound95 == pytest.approx(0.05 ** (1 / 64) - 1)
    assert same.ci95 == pytest.approx((0.025 ** (1 / 64) - 1, 1 - 0.025 ** (1 / 64)))
    assert same.p_difference == 1.0
    assert verdicts([same]).overall == "INCONCLUSIVE"
    assert verdicts([compare_means("rouge", scores, scores, margin=0.05)]).overall == "PASS"
    constant = compare_means("m", [0.7] * 64, [0.7] * 64, margin=0.05)
    assert (constant.ci95, constant.p_not_worse) == (None, 1.0)
    shifted = compare_means("m", scores, [s - 0.2 for s in scores], margin=0.05)
    assert verdicts([shifted]).overall == "FAIL"
    assert shifted.ci95 == pytest.approx((-0.2 - 1.2 * (1 - 0.025 ** (1 / 64)), -0.2 + 1.2 * (1 - 0.025 ** (1 / 64))))  # a range of 1.2
    assert shifted.p_difference == pytest.approx(0.5**63)
