"""Paired differences, alone or in clusters that belong together, and what they show of the true difference of two means."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from metrics.statistics.bootstrap import Floats, Interval
from metrics.statistics.clusters import numbered
from metrics.statistics.paired_means import lower_bounds, mean_intervals, p_mean_at_most


class Shown(NamedTuple):
    """What differences show of the true one; the fields are those of a Comparison."""

    ci95: Interval | None
    bound95: float | None
    p_not_worse: float
    p_worse: float
    p_difference: float


class Grouped(NamedTuple):
    """Differences as clusters: the mean of each, and its weight, 1 on average. Without clusters, each pair is one."""

    means: Floats
    weights: Floats

    @property
    def spread(self) -> float:
        """Standard deviation of a cluster's part in the mean; 0 where all are equal."""
        num = len(self.means)
        mean = float((self.weights * self.means).mean())
        spread = math.sqrt(float(((self.weights * (self.means - mean)) ** 2).sum()) / (num - 1)) if num > 1 else 0.0
        return spread if spread > 1e-12 * float(np.abs(self.means).max()) else 0.0


def grouped(differences: Floats, clusters: Sequence[Hashable] | None) -> Grouped:
    """clusters: one label per difference."""
    if clusters is None:
        return Grouped(differences, np.ones(len(differences)))
    labels = numbered(clusters)
    sizes = np.bincount(labels)
    return Grouped(np.bincount(labels, differences) / sizes, sizes / sizes.mean())


def shown_of_mean(pairs: Grouped, alpha: float, margin: float, reach: float, seed: int) -> Shown:
    """What differences of a mean show; nothing where there is one cluster. alpha: of the one-sided bound. seed: of the resamples."""
    means, weights = pairs.means[None], pairs.weights
    num = len(pairs.means)
    if num < 2:
        return Shown(None, None, 1.0, 1.0, 1.0)
    low, high = mean_intervals(means, 0.95, reach, np.random.default_rng(seed), weights_N=weights)
    mean = float((weights * pairs.means).mean())
    if pairs.spread:
        p_difference = float(2 * stats.t.sf(abs(mean) / (pairs.spread / math.sqrt(num)), num - 1))
    else:
        p_difference = min(1.0, 2 * 0.5**num) if mean else 1.0
    return Shown(
        ci95=Interval(float(low[0]), float(high[0])),
        bound95=float(lower_bounds(means, alpha, reach, weights)[0]),
        p_not_worse=float(p_mean_at_most(means, -margin, reach, weights)[0]),
        p_worse=float(p_mean_at_most(-means, margin, reach, weights)[0]),
        p_difference=p_difference,
    )


def shown_of_constant(pairs: Grouped) -> Shown:
    """What runs show whose scores are all the same number: no difference in any pair, so "not worse" is as sure as that many signs."""
    num = len(pairs.means)
    return Shown(None, None, 0.5**num if num > 1 else 1.0, 1.0, 1.0)


def less_favourable(one: Shown, other: Shown) -> Shown:
    """The larger p of two tests, and the interval that contains both; without one where either has none."""
    ci95 = Interval(min(one.ci95.low, other.ci95.low), max(one.ci95.high, other.ci95.high)) if one.ci95 and other.ci95 else None
    bound95 = None if one.bound95 is None or other.bound95 is None else min(one.bound95, other.bound95)
    return Shown(ci95, bound95, *(max(pair) for pair in zip(one[2:], other[2:], strict=True)))
