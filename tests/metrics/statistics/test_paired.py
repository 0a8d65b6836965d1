"""Verdicts of paired runs: Holm's adjustment, PASS and FAIL, how many further samples settle it, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

from metrics.statistics.paired import Comparison, compare_means, compare_shares, further_samples, holm, verdicts
from metrics.statistics.paired_proportions import power
from metrics.statistics.power_analysis import Tail, pairs_for_mean, pairs_for_shares
from tests.metrics.statistics.conftest import right_wrong


def judged(p_not_worse: float, p_worse: float = 1.0) -> Comparison:
    return Comparison("m", "mean", 64, 0.0, 0.0, 0.0, None, None, 1.0, p_not_worse, p_worse, 1.0, 1.0, 0.0, 1.0)


def test_one_pair_proves_nothing() -> None:
    one = compare_means("m", [0.5], [0.5], margin=0.1)
    assert (one.ci95, one.p_not_worse, one.p_worse) == (None, 1.0, 1.0)
    assert verdicts([compare_shares("s", [1.0], [1.0], margin=0.1)]).overall == "INCONCLUSIVE"


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
    needed = pairs_for_mean(
        -0.02, means.difference, means.spread, 0.05, 0.8, means.reach, Tail(means.extreme / means.spread, 40, means.skewness)
    )
    assert needed is not None
    assert further_samples(means) == needed - 40
    assert (further_samples(means, alpha=0.01) or 0) > needed - 40


def test_equal_answers_need_as_many_pairs_as_rule_out_a_rare_collapse() -> None:
    scores = [0.5 + i / 126 for i in range(64)]  # up to 1; 0.99^n is 5 % for 299 pairs
    same = compare_means("m", scores, scores, margin=0.01)
    assert further_samples(same) == pytest.approx(299 - 64, abs=1)


def test_further_samples_of_clusters_are_of_as_large_ones() -> None:
    rng = np.random.default_rng(9)
    reference = list(rng.uniform(20, 40, 64))
    candidate = [r + d for r, d in zip(reference, rng.normal(0, 1, 16).repeat(4), strict=True)]
    found = compare_means("psnr", reference, candidate, margin=3.0, clusters=[i // 4 for i in range(64)])
    alone = compare_means("psnr", reference[::4], candidate[::4], margin=3.0)
    assert found.spread == pytest.approx(alone.spread)
    assert further_samples(found, 1e-6) == pytest.approx(4 * (further_samples(alone, 1e-6) or 0), rel=0.05)  # their scores' ranges differ


def test_further_samples_have_the_planned_power() -> None:
    found = compare_shares("s", *right_wrong(both=51, losses=9, gains=2, neither=2), margin=0.05)  # 11 % worse, not yet shown
    assert verdicts([found]).overall == "INCONCLUSIVE"
    more = further_samples(found)
    assert more is not None
    assert power(64 + more, 0.05, 2 / 64, 9 / 64, 0.05) >= 0.8  # of "worse"
    assert power(64 + more - 20, 0.05, 2 / 64, 9 / 64, 0.05) < 0.8


def test_no_further_samples_are_planned_for_a_difference_at_the_margin() -> None:
    at_margin = compare_shares("s", *right_wrong(both=90, losses=6, gains=1, neither=3), margin=0.05)
    assert at_margin.difference == pytest.approx(-0.05)
    assert further_samples(at_margin) is None
    shifted = compare_means("m", [0.7] * 64, [0.65] * 64, margin=0.05)
    assert further_samples(shifted) is None
    settled = compare_shares("s", [1.0] * 200, [1.0] * 200, margin=0.05)
    assert further_samples(settled) == 0


@pytest.mark.parametrize(
    ("reference", "candidate", "margin", "message"),
    [
        ([1.0, 0.0], [1.0], 0.1, "2 scores of the reference and 1 of the candidate"),
        ([], [], 0.1, "no pairs"),
        ([1.0, 0.0], [1.0, 0.5], 0.1, "shares need scores of 0 and 1"),
        ([1.0, 0.0], [1.0, math.nan], 0.1, "not a finite number"),
        ([1.0, 0.0], [1.0, 0.0], 0.0, "margin must be positive"),
        ([1.0, 0.0], [1.0, 0.0], 1.5, "margin of a share must be under 1"),
    ],
)
def test_what_cannot_be_compared_is_refused(reference: list[float], candidate: list[float], margin: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare_shares("s", reference, candidate, margin)
