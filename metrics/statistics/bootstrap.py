"""BCa bootstrap intervals of means and of ratios of sums, for one sample or for many at once.

Axes of arrays: B data sets, N values in each, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from metrics.statistics.clusters import numbered

NUM_RESAMPLES = 10_000
BLOCK = 2**22  # counts in memory at a time

Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """low <= high."""

    low: float
    high: float


class PairedRatio(NamedTuple):
    """A ratio of two sums. n: pairs. num_clusters: groups that were resampled as a whole. ci95: None for fewer than two."""

    value: float
    ci95: Interval | None
    n: int
    num_clusters: int


def bca_interval(differences: Sequence[float], confidence: float = 0.95, seed: int = 0) -> Interval | None:
    """Interval of a mean; None for fewer than two values and for equal ones, which have no spread.

    Levels are widened as Student's t is against the normal distribution, since a resample of n values has only (n - 1) / n
    of their variance. Sources: Efron, JASA 82 (1987), 171-185; Hesterberg, The American Statistician 69 (2015), 371-386.
    """
    values_BN = np.asarray(differences, dtype=float)[None]
    if values_BN.shape[1] < 2 or np.ptp(values_BN) == 0:
        return None
    low, high = bca_mean(values_BN, confidence, np.random.default_rng(seed))
    return Interval(float(low[0]), float(high[0]))


def bca_mean(
    values_BN: Floats, confidence: float, rng: np.random.Generator, num_resamples: int = NUM_RESAMPLES, weights_N: Floats | None = None
) -> tuple[Floats, Floats]:
    """Lower and upper ends of `bca_interval` for each data set; data sets share the resamples' indices. weights_N: of the values, where
    each is a cluster's mean: clusters are drawn as a whole.
    """
    n = values_BN.shape[1]
    weights = np.ones(n) if weights_N is None else weights_N / weights_N.mean()
    mean_B = (weights * values_BN).mean(axis=1)
    drawn = [(weights * values_BN) @ counts.T / (counts @ weights) for counts in _resamples(n, num_resamples, rng)]
    return _bca(np.concatenate(drawn, axis=1), mean_B, weights * (values_BN - mean_B[:, None]), confidence)


def clustered_ratio(
    reference: Sequence[float],
    candidate: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> PairedRatio:
    """Sum of the reference over sum of the candidate: the speed-up, where they are the seconds of the same queries.

    clusters: one label per pair; pairs of one label are drawn together, because they share what they measure (the clock of a
    batch). The interval is that of `log_ratio_intervals`. Raises ValueError for unequal lengths, no pairs and values that are not positive.
    """
    pairs = np.array([reference, candidate], dtype=float)
    if pairs.size == 0 or not np.all(np.isfinite(pairs)) or np.any(pairs <= 0):
        raise ValueError("a ratio of sums needs one or more positive numbers on each side")
    n = pairs.shape[1]
    if clusters is not None:
        if len(clusters) != n:
            raise ValueError(f"{len(clusters)} cluster labels for {n} pairs")
        labels = numbered(clusters)
        pairs = np.array([np.bincount(labels, row) for row in pairs])
    num = pairs.shape[1]
    value = float(pairs[0].sum() / pairs[1].sum())
    if num < 2:
        return PairedRatio(value, None, n, num)
    low, high = log_ratio_intervals(pairs[:1], pairs[1:], confidence, np.random.default_rng(seed))
    return PairedRatio(value, Interval(math.exp(low[0]), math.exp(high[0])), n, num)


def log_ratio_intervals(
    above_BN: Floats, below_BN: Floats, confidence: float, rng: np.random.Generator, num_resamples: int = NUM_RESAMPLES
) -> tuple[Floats, Floats]:
    """Lower and upper ends of log(sum of above / sum of below) for each data set: on each side the farther of BCa and of Student's t
    on the linearised logarithm. BCa alone is too short for a few values, such as 8 batches.
    """
    n = above_BN.shape[1]
    totals = above_BN.sum(axis=1, keepdims=True), below_BN.sum(axis=1, keepdims=True)
    logs_BR = np.concatenate(
        [np.log((above_BN @ counts.T) / (below_BN @ counts.T)) for counts in _resamples(n, num_resamples, rng)], axis=1
    )
    without_BN = np.log((totals[0] - above_BN) / (totals[1] - below_BN))
    log_B = np.log(totals[0] / totals[1])[:, 0]
    low_B, high_B = _bca(logs_BR, log_B, without_BN.mean(axis=1, keepdims=True) - without_BN, confidence)
    pull_BN = above_BN / totals[0] - below_BN / totals[1]
    half_B = stats.t.ppf((1 + confidence) / 2, n - 1) * np.sqrt(n / (n - 1) * (pull_BN**2).sum(axis=1))
    return np.minimum(low_B, log_B - half_B), np.maximum(high_B, log_B + half_B)


def joint_clusters(*labels: Sequence[Hashable]) -> list[int]:
    """One label per pair for several groupings at once: pairs that share a label in any grouping are in one cluster."""
    numbers = [numbered(one) for one in labels]
    n = len(numbers[0])
    offsets = np.cumsum([n, *(int(one.max(initial=-1)) + 1 for one in numbers)])
    rows = np.tile(np.arange(n), len(numbers))
    columns = np.concatenate([one + offset for one, offset in zip(numbers, offsets, strict=False)])
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(offsets[-1], offsets[-1]))
    found = connected_components(graph, directed=False)[1][:n]
    return [int(v) for v in found]


def _resamples(n: int, num: int, rng: np.random.Generator) -> Iterator[Floats]:
    """How often each of n values is in each resample, RN, block by block."""
    block = max(1, BLOCK // n)
    for start in range(0, num, block):
        rows = min(block, num - start)
        drawn = rng.integers(0, n, (rows, n)) + n * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(float)


def _bca(resampled_BR: Floats, estimate_B: Floats, influence_BN: Floats, confidence: float) -> tuple[Floats, Floats]:
    """Both ends. influence_BN: how far each value pulls the estimate upwards, up to a factor."""
    num, n = resampled_BR.shape[1], influence_BN.shape[1]
    near = 1e-12 * np.abs(resampled_BR).max(axis=1)
    below = (resampled_BR < (estimate_B - near)[:, None]).mean(axis=1)
    not_above = (resampled_BR <= (estimate_B + near)[:, None]).mean(axis=1)
    bias_B = stats.norm.ppf(np.clip((below + not_above) / 2, 0.5 / num, 1 - 0.5 / num))
    power_B = (influence_BN**2).sum(axis=1) ** 1.5
    acceleration_B = np.divide(
        (influence_BN**3).sum(axis=1), 6 * power_B, out=np.zeros_like(power_B), where=power_B > 0
    )  # no influence, no acceleration
    ordered_BR = np.sort(resampled_BR, axis=1)
    ends = []
    for tail in ((1 - confidence) / 2, (1 + confidence) / 2):
        z = bias_B + math.sqrt(n / (n - 1)) * stats.t.ppf(tail, n - 1)
        level_B = stats.norm.cdf(bias_B + z / (1 - acceleration_B * z))
        at = np.clip(level_B * (num - 1), 0, num - 1)
        left = np.floor(at).astype(int)
        rows = np.arange(len(at))
        step = ordered_BR[rows, np.minimum(left + 1, num - 1)] - ordered_BR[rows, left]
        ends.append(ordered_BR[rows, left] + (at - left) * step)
    return ends[0], ends[1]
