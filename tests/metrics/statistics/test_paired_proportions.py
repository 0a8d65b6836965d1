"""Shares of two runs over the same prompts: worked examples, exact sizes, and intervals that belong to the test."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from metrics.statistics.paired import compare_shares, verdicts
from metrics.statistics.paired_proportions import critical, difference_bound, p_difference_at_most, power, score_statistic
from tests.metrics.statistics.conftest import right_wrong, three_deviations


def test_a_share_compared_by_hand() -> None:
    found = compare_shares("world_score", *right_wrong(both=80, losses=9, gains=3, neither=8), margin=0.1)
    assert (found.n, found.losses, found.gains) == (100, 9, 3)
    assert (found.reference, found.candidate) == (0.89, 0.83)
    assert found.difference == pytest.approx(-0.06)
    assert found.p_difference == pytest.approx(2 * sum(math.comb(12, k) for k in range(4)) / 2**12)  # McNemar's exact test
    assert found.ci95 is not None
    assert found.ci95.low < found.difference < found.ci95.high


@pytest.mark.parametrize(("losses", "gains", "difference"), [(1, 0, -0.05), (9, 3, -0.1), (0, 4, 0.02), (0, 0, -0.02)])
def test_tangos_statistic_takes_its_variance_at_the_likeliest_shares_of_that_difference(losses: int, gains: int, difference: float) -> None:
    n = 60
    share = np.linspace(max(0.0, -difference) + 1e-9, (1 - difference) / 2 - 1e-9, 400_001)  # of losses; gains are as many more
    likelihood = losses * np.log(share) + gains * np.log(share + difference) + (n - losses - gains) * np.log(1 - 2 * share - difference)
    likeliest = share[np.argmax(likelihood)]
    variance = n * (2 * likeliest + difference - difference**2)
    assert float(score_statistic(n, losses, gains, difference)) == pytest.approx(
        (gains - losses - n * difference) / math.sqrt(variance), rel=1e-3
    )


@pytest.mark.parametrize(("n", "losses", "gains"), [(30, 0, 0), (40, 3, 2), (25, 1, 6)])
def test_the_exact_p_is_the_worst_sum_over_all_outcomes(n: int, losses: int, gains: int) -> None:
    b, c = (a.ravel() for a in np.meshgrid(np.arange(n + 1), np.arange(n + 1)))
    b, c = b[b + c <= n], c[b + c <= n]
    as_bad = score_statistic(n, b, c, -0.1) >= score_statistic(n, losses, gains, -0.1) - 1e-9
    ways = np.array([math.comb(n, i) * math.comb(n - i, j) for i, j in zip(b, c, strict=True)], dtype=float)
    sums = [
        (ways * p**b * (p - 0.1) ** c * np.maximum(1.1 - 2 * p, 0.0) ** (n - b - c))[as_bad].sum() for p in np.linspace(0.1, 0.55, 2000)
    ]
    assert p_difference_at_most(n, losses, gains, -0.1) == pytest.approx(max(sums), rel=2e-3)


def test_without_a_prompt_that_differs_only_many_prompts_prove_anything() -> None:
    # nothing lost in n prompts has a chance of 0.99^n where 1 % is lost
    few, many = (compare_shares("s", [1.0] * n, [1.0] * n, margin=0.01) for n in (64, 299))
    assert few.p_not_worse == pytest.approx(0.99**64, rel=1e-6)
    assert verdicts([few]).overall == "INCONCLUSIVE"
    assert verdicts([many]).overall == "PASS"
    assert few.bound95 == pytest.approx(0.05 ** (1 / 64) - 1, abs=1e-4)


@pytest.mark.parametrize("n", [30, 64, 300])
@pytest.mark.parametrize("margin", [0.02, 0.1])
def test_a_share_that_is_worse_by_the_margin_passes_in_at_most_one_of_twenty_audits(n: int, margin: float) -> None:
    sizes = [power(n, -margin, float(gains) + margin, float(gains), 0.05) for gains in (1 - margin) / 2 * np.linspace(0, 1, 40) ** 2]
    assert 0.02 < max(sizes) <= 0.05  # exact: sums over all outcomes, no simulation


def test_the_exact_test_has_nearly_the_power_of_tangos() -> None:
    n, margin = 150, 0.05
    losses, gains = (a.ravel() for a in np.meshgrid(np.arange(n + 1), np.arange(n + 1)))
    losses, gains = losses[losses + gains <= n], gains[losses + gains <= n]
    passes = score_statistic(n, losses, gains, -margin) >= stats.norm.ppf(0.95)
    for differing in (0.02, 0.05, 0.1, 0.2):
        outcomes, shares = np.stack([losses, gains, n - losses - gains], axis=1), [differing / 2, differing / 2, 1 - differing]
        chances = np.asarray(stats.multinomial.pmf(outcomes, n, shares))
        assert power(n, -margin, differing / 2, differing / 2, 0.05) >= chances[passes].sum() - 0.05


def test_the_interval_of_shares_holds_the_truth() -> None:
    counts, times = np.unique(np.random.default_rng(1).multinomial(64, [0.1, 0.06, 0.84], size=500), axis=0, return_counts=True)
    low = np.array([p_difference_at_most(64, int(b), int(c), -0.04) for b, c, _ in counts])
    high = np.array([p_difference_at_most(64, int(c), int(b), 0.04) for b, c, _ in counts])
    covered = (times * ((low > 0.025) & (high > 0.025))).sum() / 500
    assert 0.95 - three_deviations(0.95, 500) <= covered <= 0.975 + three_deviations(0.975, 500)


@pytest.mark.parametrize(("losses", "gains"), [(0, 0), (7, 1), (2, 6)])
def test_the_interval_of_shares_belongs_to_the_test(losses: int, gains: int) -> None:
    for margin in (0.03, 0.15):
        found = compare_shares("s", *right_wrong(40 - losses - gains, losses, gains, 0), margin)
        assert found.ci95 is not None
        assert found.bound95 is not None
        assert (found.ci95.low > -margin) == (found.p_not_worse < 0.025)
        assert (found.ci95.high < -margin) == (found.p_worse < 0.025)
        assert (found.bound95 > -margin) == (found.p_not_worse < 0.05)


def test_bounds_rise_with_the_level() -> None:
    bounds = [difference_bound(64, 4, 2, alpha) for alpha in (0.01, 0.025, 0.05, 0.2)]
    assert all(a < b for a, b in pairwise(bounds))
    assert critical(64, -0.05, 0.025) > critical(64, -0.05, 0.05)


def test_shares_in_clusters_take_the_less_favourable_of_two_tests() -> None:
    """A prompt whose four answers are lost together is one loss, not four."""
    right, wrong = right_wrong(both=116, losses=4, gains=0, neither=0)
    right, wrong = right[::-1], wrong[::-1]
    singly, together = (compare_shares("s", right, wrong, 0.1, clusters) for clusters in (None, [i // 4 for i in range(120)]))
    assert verdicts([singly]).overall == "PASS"
    assert verdicts([together]).overall == "INCONCLUSIVE"
    assert (together.losses, together.num_clusters, together.difference) == (4, 30, singly.difference)
    assert singly.ci95 is not None
    assert together.ci95 is not None
    assert together.ci95.low < singly.ci95.low
    assert compare_shares("s", right, wrong, 0.1, list(range(120))) == singly
