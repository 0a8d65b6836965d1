"""Differences, intervals and verdicts of paired runs: worked examples, agreement with scipy, and error rates by simulation.

A simulated rate may miss its goal by three standard deviations of the simulation itself; seeds are fixed.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from metrics.statistics.bootstrap import log_ratio_intervals
from metrics.statistics.paired import (
    Comparison,
    bca_interval,
    clustered_ratio,
    compare_means,
    compare_shares,
    further_samples,
    holm,
    joint_clusters,
    verdicts,
)
from metrics.statistics.paired_means import mean_intervals, p_mean_at_most
from metrics.statistics.paired_proportions import critical, difference_bound, p_difference_at_most, power, score_statistic
from metrics.statistics.power_analysis import Tail, pairs_for_mean, pairs_for_shares


def judged(p_not_worse: float, p_worse: float = 1.0) -> Comparison:
    return Comparison("m", "mean", 64, 0.0, 0.0, 0.0, None, None, 1.0, p_not_worse, p_worse, 1.0, 1.0, 0.0, 1.0)


def right_wrong(both: int, losses: int, gains: int, neither: int) -> tuple[list[float], list[float]]:
    return [1.0] * (both + losses) + [0.0] * (gains + neither), [1.0] * both + [0.0] * losses + [1.0] * gains + [0.0] * neither


def three_deviations(rate: float, num: int) -> float:
    return 3 * math.sqrt(rate * (1 - rate) / num)


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


def test_the_exact_test_is_hardly_blunter_than_tangos() -> None:
    n, margin = 150, 0.05
    losses, gains = (a.ravel() for a in np.meshgrid(np.arange(n + 1), np.arange(n + 1)))
    losses, gains = losses[losses + gains <= n], gains[losses + gains <= n]
    passes = score_statistic(n, losses, gains, -margin) >= stats.norm.ppf(0.95)
    for differing in (0.02, 0.05, 0.1, 0.2):
        outcomes, shares = np.stack([losses, gains, n - losses - gains], axis=1), [differing / 2, differing / 2, 1 - differing]
        chances = np.asarray(stats.multinomial.pmf(outcomes, n, shares))
        assert power(n, -margin, differing / 2, differing / 2, 0.05) >= chances[passes].sum() - 0.05


def test_the_interval_of_shares_holds_the_truth() -> None:
    counts, times = np.unique(np.random.default_rng(1).multinomial(64, [0.1, 0.06, 0.84], size=1500), axis=0, return_counts=True)
    low = np.array([p_difference_at_most(64, int(b), int(c), -0.04) for b, c, _ in counts])
    high = np.array([p_difference_at_most(64, int(c), int(b), 0.04) for b, c, _ in counts])
    held = (times * ((low > 0.025) & (high > 0.025))).sum() / 1500
    assert 0.95 - three_deviations(0.95, 1500) <= held <= 0.975 + three_deviations(0.975, 1500)


@pytest.mark.parametrize(("losses", "gains"), [(0, 0), (7, 1), (2, 6), (14, 1)])
def test_the_interval_of_shares_belongs_to_the_test(losses: int, gains: int) -> None:
    for margin in (0.03, 0.08, 0.15):
        found = compare_shares("s", *right_wrong(64 - losses - gains, losses, gains, 0), margin)
        assert found.ci95 is not None
        assert found.bound95 is not None
        assert (found.ci95.low > -margin) == (found.p_not_worse < 0.025)
        assert (found.ci95.high < -margin) == (found.p_worse < 0.025)
        assert (found.bound95 > -margin) == (found.p_not_worse < 0.05)


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
    held = ((low <= 0) & (high >= 0)).mean()
    assert 0.925 - three_deviations(0.93, 1500) <= held <= 0.965 + three_deviations(0.965, 1500)


def test_the_interval_of_means_is_scipys_bca_at_levels_widened_as_t_is() -> None:
    d = np.random.default_rng(4).exponential(size=25)
    tail = float(stats.norm.cdf(math.sqrt(25 / 24) * stats.t.ppf(0.025, 24)))
    scipys = stats.bootstrap((d,), np.mean, confidence_level=1 - 2 * tail, n_resamples=40_000, method="BCa", rng=np.random.default_rng(0))
    ours = bca_interval(list(d))
    assert ours is not None
    assert tuple(ours) == pytest.approx(tuple(scipys.confidence_interval), abs=0.02 * d.std())
    assert ours == bca_interval(list(d))  # the same seed, the same interval


def test_equal_differences_get_no_interval_of_zero_width() -> None:
    assert bca_interval([0.1] * 64) is None
    assert bca_interval([0.1]) is None
    scores = [i / 63 for i in range(64)]
    same = compare_means("rouge", scores, scores, margin=0.01)  # a range of 1: 64 pairs miss 4.6 % of all prompts with a chance of 5 %
    assert same.bound95 == pytest.approx(0.05 ** (1 / 64) - 1)
    assert verdicts([same]).overall == "INCONCLUSIVE"
    assert verdicts([compare_means("rouge", scores, scores, margin=0.05)]).overall == "PASS"
    constant = compare_means("m", [0.7] * 64, [0.7] * 64, margin=0.05)
    assert (constant.ci95, constant.p_not_worse) == (None, 1.0)
    shifted = compare_means("m", scores, [s - 0.2 for s in scores], margin=0.05)
    assert verdicts([shifted]).overall == "FAIL"


def test_one_pair_proves_nothing() -> None:
    one = compare_means("m", [0.5], [0.5], margin=0.1)
    assert (one.ci95, one.p_not_worse, one.p_worse) == (None, 1.0, 1.0)
    assert verdicts([compare_shares("s", [1.0], [1.0], margin=0.1)]).overall == "INCONCLUSIVE"


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


def test_holm_adjusts_a_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_verdicts_need_all_to_pass_and_one_to_fail() -> None:
    fine, worse, unclear = judged(0.001), judged(0.99, 0.001), judged(0.2, 0.5)
    assert verdicts([fine, fine]).overall == "PASS"
    assert verdicts([fine, unclear]).overall == "INCONCLUSIVE"
    found = verdicts([fine, unclear, worse])
    assert found.overall == "FAIL"
    assert [v.verdict for v in found.each] == ["PASS", "INCONCLUSIVE", "FAIL"]
    with pytest.raises(ValueError, match="nothing was compared"):
        verdicts([])


def test_verdicts_are_adjusted_in_each_direction() -> None:
    assert verdicts([judged(0.04)]).overall == "PASS"
    several = verdicts([judged(0.04), judged(0.03), judged(0.9)])  # 0.03 is 0.09 among three
    assert [v.verdict for v in several.each] == ["INCONCLUSIVE"] * 3
    assert [v.p_not_worse for v in several.each] == pytest.approx([0.09, 0.09, 0.9])
    assert verdicts([judged(0.99, 0.03), judged(0.001)]).overall == "INCONCLUSIVE"


def test_further_samples_are_what_the_planner_says() -> None:
    shares = compare_shares("s", *right_wrong(both=54, losses=3, gains=3, neither=4), margin=0.05)
    planned = pairs_for_shares(-0.05, 3 / 64, 3 / 64, 0.05, 0.8)
    assert planned is not None
    assert further_samples(shares) == planned - 64
    rng = np.random.default_rng(7)
    reference = rng.normal(0.8, 0.1, 40)
    means = compare_means("m", list(reference), list(reference + rng.normal(0, 0.1, 40)), margin=0.02)
    needed = pairs_for_mean(-0.02, means.difference, means.spread, 0.05, 0.8, Tail(means.extreme / means.spread, 40, means.skewness))
    assert needed is not None
    assert further_samples(means) == needed - 40
    assert (further_samples(means, alpha=0.01) or 0) > needed - 40


def test_further_samples_settle_it_with_the_power_they_promise() -> None:
    found = compare_shares("s", *right_wrong(both=51, losses=9, gains=2, neither=2), margin=0.05)  # 11 % worse, not yet shown
    assert verdicts([found]).overall == "INCONCLUSIVE"
    more = further_samples(found)
    assert more is not None
    assert power(64 + more, 0.05, 2 / 64, 9 / 64, 0.05) >= 0.8  # of "worse"
    assert power(64 + more - 20, 0.05, 2 / 64, 9 / 64, 0.05) < 0.8


def test_further_samples_do_not_chase_what_sits_at_the_margin() -> None:
    at_margin = compare_shares("s", *right_wrong(both=90, losses=6, gains=1, neither=3), margin=0.05)
    assert at_margin.difference == pytest.approx(-0.05)
    assert further_samples(at_margin) is None
    assert further_samples(compare_means("m", [0.7] * 64, [0.7] * 64, margin=0.05)) is None
    settled = compare_shares("s", [1.0] * 200, [1.0] * 200, margin=0.05)
    assert further_samples(settled) == 0


def test_bounds_and_levels_move_together() -> None:
    bounds = [difference_bound(64, 4, 2, alpha) for alpha in (0.01, 0.025, 0.05, 0.2)]
    assert all(a < b for a, b in pairwise(bounds))
    assert critical(64, -0.05, 0.025) > critical(64, -0.05, 0.05)


@pytest.mark.parametrize(
    ("reference", "candidate", "margin", "message"),
    [
        ([1.0, 0.0], [1.0], 0.1, "2 scores of the reference and 1 of the candidate"),
        ([], [], 0.1, "no pairs"),
        ([1.0, 0.0], [1.0, 0.5], 0.1, "shares are of scores 0 and 1"),
        ([1.0, 0.0], [1.0, math.nan], 0.1, "not a finite number"),
        ([1.0, 0.0], [1.0, 0.0], 0.0, "margin must be above 0"),
        ([1.0, 0.0], [1.0, 0.0], 1.5, "margin must be under 1"),
    ],
)
def test_what_cannot_be_compared_is_refused(reference: list[float], candidate: list[float], margin: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare_shares("s", reference, candidate, margin)
