"""Confidence intervals, percentiles and early-stopping bounds; None where there are too few values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

from scipy import stats

CONFIDENCE = 0.99  # LoadGen's, for early stopping


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a share. Source: E. B. Wilson, JASA 22 (1927), 209-212."""
    if n == 0:
        return 0.0, 1.0
    low, high = stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return float(low), float(high)


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Student's t interval of a mean; None for fewer than two values."""
    n = len(values)
    if n < 2:
        return None
    mean = math.fsum(values) / n
    error = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1) / n)
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * error
    return mean - half, mean + half


def percentile(values: Sequence[float], share: float) -> float:
    """LoadGen's percentile: the value at index floor(n * share) of the sorted values."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def percentile_bound(values: Sequence[float], share: float) -> float | None:
    """The latency that `share` of all queries stays under, with 99 % confidence; None where n is too small.

    LoadGen's early-stopping estimate: the t-th largest of n values is reported, with the largest t for which n values
    suffice. Source: mlcommons/inference, loadgen/early_stopping.cc (d = 0).
    """
    t = 0
    if len(values) < min_queries(share, 1):
        return None
    while min_queries(share, t + 1) <= len(values):
        t += 1
    return sorted(values)[len(values) - t]


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
    return bool(stats.binom.cdf(num_over, n, 1 - share) < 1 - CONFIDENCE)
