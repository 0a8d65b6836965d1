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
    assert float(p_mean_at_most(d[None], -0.25, 1.0)[0]) == pytest.approx(exact, rel=0.03)  # by a saddle point
    assert t < exact / 50  # what Student's t makes of it


def test_the_guards_saddle_point_agrees_with_drawn_weights() -> None:
    rng = np.random.default_rng(2)
    d = -rng.exponential(size=30)
    reach = float(np.abs(d).max())
    weights = rng.dirichlet(np.ones(31), size=100_000)
    drawn = weights @ np.append(d, d.min())
    for bound in (-1.6, -1.4, float(np.append(d, d.min()).mean())):
        p = float(p_mean_at_most(d[None], bound, reach)[0])
        assert p == pytest.approx((drawn <= bound).mean(), abs=three_deviations(0.5, 100_000) + 0.002)


@pytest.mark.parametrize("tail", ["normal", "losses", "gains", "few"])
@pytest.mark.parametrize("n", [30, 128])
def test_a_mean_that_is_worse_by_the_margin_passes_in_at_most_one_of_twenty_audits(tail: str, n: int) -> None:
    rng = np.random.default_rng(3)
    few = rng.choice([-1, -0.5, 0, 0.5], p=[0.03, 0.07, 0.88, 0.02], size=(1000, n)) + 0.055
    d = {
        "normal": rng.normal(size=(1000, n)),
        "losses": 1 - rng.exponential(size=(1000, n)),
        "gains": rng.exponential(size=(1000, n)) - 1,
        "few": few,
    }[tail]
    for sign in (1, -1):  # false PASS, false FAIL
        rate = (p_mean_at_most(sign * (d - 0.3), -sign * 0.3, 1.0) <= 0.05).mean()
        assert rate <= 0.05 + three_deviations(0.05, 1000)
    low, high = mean_intervals(d[:100], 0.95, 1.0, rng, 400)
    assert ((low <= 0) & (high >= 0)).mean() >= 0.93 - three_deviations(0.93, 100)


def test_equal_differences_get_no_interval_of_zero_width() -> None:
    assert bca_interval([0.1] * 64) is None
    assert bca_interval([0.1]) is None
    scores = [i / 63 for i in range(64)]
    same = compare_means("rouge", scores, scores, margin=0.01)  # a range of 1: 64 pairs miss 4.6 % of all prompts with a chance of 5 %
    assert same.bound95 == pytest.approx(0.05 ** (1 / 64) - 1, rel=0.01)
    assert same.ci95 == pytest.approx((0.025 ** (1 / 64) - 1, 1 - 0.025 ** (1 / 64)), rel=0.01)
    assert same.p_difference == 1.0
    assert verdicts([same]).overall == "INCONCLUSIVE"
    assert verdicts([compare_means("rouge", scores, scores, margin=0.05)]).overall == "PASS"
    shifted = compare_means("m", scores, [s - 0.2 for s in scores], margin=0.05)
    assert verdicts([shifted]).overall == "FAIL"
    assert shifted.ci95 is not None
    assert shifted.ci95.low < -0.2 < shifted.ci95.high
    assert shifted.p_difference == pytest.approx(0.5**63)


def test_equal_constant_scores_pass() -> None:
    """They show no way to differ: 0.5^n, as so many signs do, whatever the margin."""
    constant = compare_means("first_frame_psnr", [100.0] * 64, [100.0] * 64, margin=1.0)
    assert (constant.ci95, constant.p_not_worse, constant.p_worse) == (None, 0.5**64, 1.0)
    assert verdicts([constant]).overall == "PASS"
    assert verdicts([compare_means("m", [0.7] * 64, [0.7] * 64, margin=0.007)]).overall == "PASS"
    assert verdicts([compare_means("m", [0.7] * 4, [0.7] * 4, margin=0.05)]).overall == "INCONCLUSIVE"
    assert verdicts([compare_means("m", [0.7] * 64, [0.5] * 64, margin=0.05)]).overall == "FAIL"


@pytest.mark.parametrize("n", [30, 64])
def test_rare_collapses_that_jitter_hides_do_not_pass(n: int) -> None:
    """1 in 50 answers collapses, the others differ by 1 %: 64 pairs contain no collapse in 27 % of audits."""
    rng = np.random.default_rng(5)
    d = rng.normal(0, 0.01, (1500, n)) - (rng.random((1500, n)) < 0.02)
    assert (p_mean_at_most(d, -0.02, 1.0) <= 0.05).mean() <= 0.05
    low, high = mean_intervals(d[:100], 0.95, 1.0, rng, 400)
    assert ((low <= -0.02) & (high >= -0.02)).mean() >= 0.95 - three_deviations(0.95, 150)


def test_how_far_a_missed_pair_may_be_is_known_from_scores_and_a_missing_answers_score() -> None:
    rng = np.random.default_rng(6)
    reference = rng.normal(0.8, 0.01, 64)  # no score is near 0, where an answer that collapses is
    candidate = reference + rng.normal(0, 0.01, 64)
    found = compare_means("m", list(reference), list(candidate), margin=0.02)
    assert found.reach == pytest.approx(max(reference.max(), candidate.max()))
    assert verdicts([found]).overall == "INCONCLUSIVE"
    assert found.bound95 is not None
    assert (found.bound95 > -0.02) == (found.p_not_worse < 0.05)
    assert found.ci95 is not None
    assert found.ci95.low < found.bound95
    assert verdicts([compare_means("m", list(reference), list(candidate), margin=0.05)]).overall == "PASS"
    bounded = compare_means("m", list(reference), list(candidate), margin=0.02, worst=0.7)
    assert verdicts([bounded]).overall == "PASS"


def clusters_of_four(rng: np.random.Generator, num: int) -> np.ndarray:
    """16 prompts with 4 answers each, which share most of what they differ by."""
    return (rng.normal(size=(num, 16, 1)) + 0.3 * rng.normal(size=(num, 16, 4))).reshape(num, 64)


def test_pairs_of_one_prompt_are_resampled_together() -> None:
    rng = np.random.default_rng(7)
    d = clusters_of_four(rng, 1500)
    singly = (p_mean_at_most(d - 0.3, -0.3, 4.0) <= 0.05).mean()
    together = (p_mean_at_most(d.reshape(1500, 16, 4).mean(axis=2) - 0.3, -0.3, 4.0) <= 0.05).mean()
    assert singly > 0.1
    assert together <= 0.05 + three_deviations(0.05, 1000)


def test_a_comparison_takes_clusters() -> None:
    rng = np.random.default_rng(8)
    reference = rng.uniform(20, 40, 64)
    candidate = reference + 0.3 + clusters_of_four(rng, 1)[0]
    labels = [i // 4 for i in range(64)]
    singly, together = (compare_means("psnr", list(reference), list(candidate), 0.5, clusters=c) for c in (None, labels))
    assert (singly.num_clusters, together.num_clusters, together.n) == (64, 16, 64)
    assert together.difference == singly.difference
    assert together.spread == pytest.approx(float((candidate - reference).reshape(16, 4).mean(axis=1).std(ddof=1)))
    assert together.p_difference > singly.p_difference
    each = compare_means("psnr", list(reference), list(candidate), 0.5, clusters=list(range(64)))
    assert each == singly
    uneven = compare_means("psnr", list(reference), list(candidate), 0.5, clusters=[min(i, 40) for i in range(64)])
    assert uneven.num_clusters == 41
    assert uneven.difference == pytest.approx(singly.difference)
    one = compare_means("psnr", list(reference), list(candidate), 0.5, clusters=[0] * 64)
    assert (one.ci95, verdicts([one]).overall) == (None, "INCONCLUSIVE")
    with pytest.raises(ValueError, match="3 cluster labels for 64 pairs"):
        compare_means("psnr", list(reference), list(candidate), 0.5, clusters=[0, 1, 2])
