"""Confidence intervals, percentiles and early-stopping bounds; None where there are too few values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

CONFIDENCE = 0.99  # LoadGen's, for early stopping


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a share. Source: E. B. Wilson, JASA 22 (1927), 209-212."""
    if n == 0:
        return 0.0, 1.0
    z, share = float(special.ndtri((1 + confidence) / 2)), successes / n
    middle, half = (2 * successes + z * z) / (2 * (n + z * z)), z * math.sqrt(z * z + 4 * n * share * (1 - share)) / (2 * (n + z * z))
    return 0.0 if successes == 0 else middle - half, 1.0 if successes == n else middle + half


def student_t(level: float, dof: float) -> float:
    """The quantile of Student's t distribution, as `scipy.stats.t.ppf`, whose import takes 0.6 s longer."""
    return float(special.stdtrit(dof, level))


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Student's t interval of a mean; None for fewer than two values."""
    n = len(values)
    if n < 2:
        return None
    mean = math.fsum(values) / n
    error = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1) / n)
    half = student_t((1 + confidence) / 2, n - 1) * error
    return mean - half, mean + half


def percentile(values: Sequence[float] | NDArray[np.float64], share: float) -> float:
    """LoadGen's percentile of values in any order."""
    return float(np.sort(values)[percentile_index(len(values), share)])


def percentile_index(n: int, share: float) -> int:
    """The place of LoadGen's percentile among n sorted values: floor(n * share)."""
    return min(int(n * share), n - 1)


def percentile_bound(values: Sequence[float] | NDArray[np.float64], share: float) -> float | None:
    """The latency that `share` of all queries stays under, with 99 % confidence; None where n is too small.

    LoadGen's early-stopping estimate: the t-th largest of n values is reported, with the largest t for which n values
    suffice. Source: mlcommons/inference, loadgen/early_stopping.cc (d = 0).
    """
    n = len(values)
    if n < min_queries(share, 1):
        return None
    t, too_many = 1, n  # a million queries allow about 100,000 of them to be over: bisection, not one after another
    while t + 1 < too_many:
        middle = (t + too_many) // 2
        t, too_many = (middle, too_many) if _suffices(n, middle, share) else (t, middle)
    return float(np.sort(values)[n - t])


@lru_cache(maxsize=4096)
def min_queries(share: float, num_over: int) -> int:
    """Fewest queries of which `num_over` may be slower than the limit with the percentile still met."""
    low, high = num_over + 1, num_over + 2
    while not _suffices(high, num_over, share):
        high *= 2
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _suffices(middle, num_over, share) else (middle + 1, high)
    return low


def _suffices(n: int, num_over: int, share: float) -> bool:
    """Whether `num_over` of n queries would be unlikely (under 1 %) if more than 1 - share of all were over."""
    return bool(special.bdtr(num_over, n, 1 - share) < 1 - CONFIDENCE)
