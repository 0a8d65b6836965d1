"""Compares two runs prompt by prompt: differences, intervals, and verdicts with a margin.

docs/audits.md describes the statistics and how they were validated.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from scipy import stats

from metrics.statistics.bootstrap import Floats, Interval
from metrics.statistics.grouped_differences import Shown, grouped, less_favourable, shown_of_constant, shown_of_mean
from metrics.statistics.paired_proportions import difference_bound, difference_interval, p_difference_at_most
from metrics.statistics.power_analysis import Tail, pairs_for_mean, pairs_for_shares

ALPHA = 0.05

Judgement = Literal["PASS", "FAIL", "INCONCLUSIVE"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric of two runs over the same n prompts.

    difference: candidate minus reference, with the sign for which higher is better. margin: how much worse the candidate may be, positive.
    ci95: two-sided, of the difference; bound95: the one-sided lower 95 % bound of the difference. Both None where the scores
    do not determine them. p_not_worse: of "worse by the margin or more"; p_worse: of "worse by less than the margin, or better";
    p_difference: of "no different". num_clusters: groups of pairs that were resampled as a whole, n where each pair is one. reach: the most
    by which a pair that the sample missed may differ. spread, skewness: of the paired differences, of clusters' means where there are
    clusters; extreme: the largest absolute one.
    losses, gains: for shares, prompts that only the reference and only the candidate got right.
    """

    name: str
    kind: Literal["mean", "share"]
    n: int
    reference: float
    candidate: float
    difference: float
    ci95: Interval | None
    bound95: float | None
    margin: float
    p_not_worse: float
    p_worse: float
    p_difference: float
    spread: float
    skewness: float
    extreme: float
    better: Literal["higher", "lower"] = "higher"
    losses: int | None = None
    gains: int | None = None
    num_clusters: int = 0
    reach: float = 0.0


class Verdict(NamedTuple):
    """p_not_worse, p_worse: adjusted by Holm for all comparisons that were judged together."""

    comparison: Comparison
    verdict: Judgement
    p_not_worse: float
    p_worse: float


class Verdicts(NamedTuple):
    """each: in the order of the comparisons."""

    overall: Judgement
    each: list[Verdict]


def compare_means(
    name: str,
    reference: Sequence[float],
    candidate: Sequence[float],
    margin: float,
    better: Literal["higher", "lower"] = "higher",
    worst: float = 0.0,
    clusters: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> Comparison:
    """Compare scores of the same prompts, in the same order. seed: of the interval's resamples.

    worst: the score of a missing answer. A pair that the sample missed may differ by as much as any two of the scores and `worst` do:
    answers that all but agree prove no more than equal ones do. If one score is all that either run has, nothing shows that answers can
    differ; each pair then counts as one sign, and there is no interval.
    clusters: one label per pair; pairs of one label are resampled together. Raises ValueError for what cannot be compared.
    """
    scores = _checked(name, reference, candidate, margin, clusters)
    differences = scores[1] - scores[0] if better == "higher" else scores[0] - scores[1]
    pairs = grouped(differences, clusters)
    reach = float(np.ptp(np.append(scores, worst)))
    shown = shown_of_mean(pairs, ALPHA, margin, reach, seed) if np.ptp(scores) > 0 else shown_of_constant(pairs)
    return Comparison(
        name=name,
        kind="mean",
        n=len(differences),
        num_clusters=len(pairs.means),
        reference=float(scores[0].mean()),
        candidate=float(scores[1].mean()),
        difference=float(differences.mean()),
        margin=margin,
        reach=reach,
        spread=pairs.spread,
        skewness=float(stats.skew(pairs.means)) if pairs.spread else 0.0,
        extreme=float(np.abs(pairs.means).max()),
        better=better,
        **shown._asdict(),
    )


def compare_shares(
    name: str, reference: Sequence[float], candidate: Sequence[float], margin: float, clusters: Sequence[Hashable] | None = None
) -> Comparison:
    """Compare right (1) and wrong (0) answers to the same prompts, in the same order. Exact: for every n and share of prompts that differ.

    p_difference is McNemar's exact test. clusters: one label per pair. Pairs of one label are not independent, as the exact test takes
    them to be: of this test and of that of the clusters' means the less favourable counts. Raises ValueError for what cannot be compared.
    """
    scores = _checked(name, reference, candidate, margin, clusters)
    if not np.all((scores == 0) | (scores == 1)):
        raise ValueError(f"{name}: shares need scores of 0 and 1; use compare_means for other scores")
    if margin >= 1:
        raise ValueError(f"{name}: the margin of a share must be under 1, got {margin:g}")
    n = scores.shape[1]
    losses, gains = (int(((scores[0] == r) & (scores[1] == 1 - r)).sum()) for r in (1, 0))
    pairs = grouped(scores[1] - scores[0], clusters)
    shown = Shown(
        ci95=difference_interval(n, losses, gains),
        bound95=difference_bound(n, losses, gains, ALPHA),
        p_not_worse=p_difference_at_most(n, losses, gains, -margin),
        p_worse=p_difference_at_most(n, gains, losses, margin),
        p_difference=float(stats.binomtest(losses, losses + gains).pvalue) if losses + gains else 1.0,
    )
    if len(pairs.means) < n:
        shown = less_favourable(shown, shown_of_mean(pairs, ALPHA, margin, 1.0, 0))
    return Comparison(
        name=name,
        kind="share",
        n=n,
        num_clusters=len(pairs.means),
        reference=float(scores[0].mean()),
        candidate=float(scores[1].mean()),
        difference=(gains - losses) / n,
        margin=margin,
        reach=1.0,
        spread=pairs.spread,
        skewness=0.0,
        extreme=float(np.abs(pairs.means).max()),
        losses=losses,
        gains=gains,
        **shown._asdict(),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted so that the chance of even one false rejection stays at the level.

    Source: Holm, Scandinavian Journal of Statistics 6 (1979), 65-70.
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def verdicts(comparisons: Sequence[Comparison], alpha: float = ALPHA) -> Verdicts:
    """PASS: not worse by the margin; FAIL: worse by more; INCONCLUSIVE: neither is shown. Overall: the worst of them.

    Holm is applied in each direction by itself: of all that pass, the chance that any is worse by the margin is at most alpha,
    and of all that fail, the chance that any is not. Raises ValueError where there are no comparisons: that is no PASS.
    """
    if not comparisons:
        raise ValueError("nothing was compared")
    fine, worse = holm([c.p_not_worse for c in comparisons]), holm([c.p_worse for c in comparisons])
    each = []
    for comparison, p_fine, p_worse in zip(comparisons, fine, worse, strict=True):
        judged: Judgement = "FAIL" if p_worse <= alpha else "PASS" if p_fine <= alpha else "INCONCLUSIVE"
        each.append(Verdict(comparison, judged, p_fine, p_worse))
    found = {v.verdict for v in each}
    return Verdicts("FAIL" if "FAIL" in found else "PASS" if found == {"PASS"} else "INCONCLUSIVE", each)


def further_samples(comparison: Comparison, alpha: float = ALPHA, power: float = 0.8, at_most: int = 10_000) -> int | None:
    """Further pairs that settle the comparison with this power if the observed difference is the true one; 0 where it is settled.

    Settled means "not worse", or "worse" where the observed difference is beyond the margin. None where more than `at_most` are
    needed, as when the observed difference is close to the margin. Clusters are planned to have as many pairs as those seen.
    alpha: the level of the test; a comparison judged with m - 1 others is safe with alpha / m. The numbers come from the planner of
    `suite.py sample-size`.
    """
    c = comparison
    if min(c.p_not_worse, c.p_worse) <= alpha:
        return 0
    worse = c.difference < -c.margin
    per_cluster = c.n / c.num_clusters
    if c.kind == "share" and per_cluster == 1:
        assert c.losses is not None
        assert c.gains is not None
        losses, gains = (c.gains, c.losses) if worse else (c.losses, c.gains)
        needed = pairs_for_shares(c.margin if worse else -c.margin, losses / c.n, gains / c.n, alpha, power, at_most + c.n)
    else:
        bound, difference = (c.margin, -c.difference) if worse else (-c.margin, c.difference)
        tail = Tail(c.extreme / c.spread, c.num_clusters, -c.skewness if worse else c.skewness) if c.spread else None
        most = int((at_most + c.n) / per_cluster)
        found = pairs_for_mean(bound, difference, c.spread, alpha, power, c.reach, tail, most)
        needed = None if found is None else math.ceil(found * per_cluster)
    return None if needed is None else max(1, needed - c.n)


def _checked(
    name: str, reference: Sequence[float], candidate: Sequence[float], margin: float, clusters: Sequence[Hashable] | None
) -> Floats:
    """Both rows of scores, where they can be compared."""
    if clusters is not None and len(clusters) != len(reference):
        raise ValueError(f"{name}: {len(clusters)} cluster labels for {len(reference)} pairs")
    if len(reference) != len(candidate):
        raise ValueError(f"{name}: {len(reference)} scores of the reference and {len(candidate)} of the candidate are no pairs")
    if len(reference) == 0:
        raise ValueError(f"{name}: no pairs")
    if not (margin > 0 and math.isfinite(margin)):
        raise ValueError(f"{name}: the margin must be positive, got {margin:g}")
    scores = np.array([reference, candidate], dtype=float)
    if not np.all(np.isfinite(scores)):
        raise ValueError(f"{name}: a score is not a finite number")
    return scores
