"""Exact test and interval of the difference of two shares, from right and wrong answers to the same prompts.

A loss is a prompt that the reference got right and the candidate wrong, a gain the converse; difference = gains' share - losses' share.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats

from metrics.statistics.bootstrap import Interval

GRID = 161  # values of the unknown share of losses that are tried
CLOSER = 2  # refinements of the grid around the worst value
TIE = 1e-9

Floats = NDArray[np.float64]


def score_statistic(n: int, losses: ArrayLike, gains: ArrayLike, difference: float) -> Floats:
    """Tango's score statistic: how far, in standard deviations, the counts are above a true `difference` between -1 and 1.

    Source: Tango, Statistics in Medicine 17 (1998), 891-908.
    """
    b, c, d = np.asarray(losses, dtype=float), np.asarray(gains, dtype=float), difference
    linear = b + c + (c - b - 2 * n) * d
    share = (linear + np.sqrt(np.maximum(linear**2 + 8 * n * b * d * (1 - d), 0.0))) / (4 * n)  # of losses, the likeliest under d
    variance = n * (2 * share + d - d * d)
    above = c - b - n * d
    found: Floats = above / np.sqrt(np.where(variance > TIE, variance, 1.0))
    return found


def p_difference_at_most(n: int, losses: int, gains: int, difference: float) -> float:
    """One-sided exact p of "the true difference is `difference` or less".

    The chance of counts that speak at least as much against it, by Tango's statistic, at the worst share of losses: its size
    is at most the level for every n and every share of prompts that differ.
    Source: Hsueh, Liu and Chen, Biometrics 57 (2001), 478-483.
    """
    return _worst_chance(n, difference, float(score_statistic(n, losses, gains, difference)) - TIE)


def difference_interval(n: int, losses: int, gains: int, confidence: float = 0.95) -> Interval:
    """The differences that neither one-sided exact test rejects at half of 1 - confidence."""
    alpha = (1 - confidence) / 2
    return Interval(difference_bound(n, losses, gains, alpha), -difference_bound(n, gains, losses, alpha))


def difference_bound(n: int, losses: int, gains: int, alpha: float) -> float:
    """The lower bound of the true difference by `p_difference_at_most` at level alpha."""

    def excess(difference: float) -> float:
        return p_difference_at_most(n, losses, gains, difference) - alpha

    low, high = -1 + 1e-9, (gains - losses) / n
    if losses == n or excess(low) >= 0:
        return -1.0
    return float(optimize.brentq(excess, low, min(high, 1 - 1e-9), xtol=1e-5))


def power(n: int, difference: float, losses_share: float, gains_share: float, alpha: float) -> float:
    """Chance that `p_difference_at_most` is alpha or less, where these are the true shares of losses and gains."""
    return float(_chances(n, _fewest_gains(n, difference, critical(n, difference, alpha)), np.array([losses_share]), gains_share)[0])


@lru_cache(maxsize=1024)
def critical(n: int, difference: float, alpha: float) -> float:
    """The least statistic at which the exact test rejects, to 0.002 and never too low."""
    low, high = 0.0, float(stats.norm.ppf(1 - alpha)) + 1.0
    while _worst_chance(n, difference, high) > alpha:
        low, high = high, high + 1.0
    while high - low > 0.002:
        middle = (low + high) / 2
        low, high = (low, middle) if _worst_chance(n, difference, middle) <= alpha else (middle, high)
    return high


def _worst_chance(n: int, difference: float, statistic: float) -> float:
    """Largest chance, over the share of losses, of a statistic at least this large where `difference` is the truth."""
    fewest = _fewest_gains(n, difference, statistic)
    low, high = max(0.0, -difference), (1 - difference) / 2
    shares = low + (high - low) * np.linspace(0, 1, GRID) ** 2
    worst = 0.0
    for _ in range(1 + CLOSER):
        chances = _chances(n, fewest, shares, shares + difference)
        at = int(np.argmax(chances))
        worst = max(worst, float(chances[at]))
        shares = np.linspace(shares[max(at - 1, 0)], shares[min(at + 1, len(shares) - 1)], 9)
    return min(worst, 1.0)


def _fewest_gains(n: int, difference: float, statistic: float) -> NDArray[np.int64]:
    """For 0 to n losses the fewest gains with at least this statistic, which grows with the gains; n + 1 where none suffices."""
    losses = np.arange(n + 1)
    low, high = np.zeros(n + 1, dtype=np.int64), n - losses + 1
    while np.any(low < high):
        middle = (low + high) // 2
        enough = score_statistic(n, losses, np.minimum(middle, n - losses), difference) >= statistic
        open_ = low < high
        high = np.where(open_ & enough, middle, high)
        low = np.where(open_ & ~enough, middle + 1, low)
    return np.where(low > n - losses, n + 1, low)


def _chances(n: int, fewest: NDArray[np.int64], losses_share: Floats, gains_share: Any) -> Floats:
    """Chance of at least the fewest gains, for each pair of true shares; losses beyond 9 standard deviations are left out."""
    deviation = math.sqrt(n * float(np.max(losses_share * (1 - losses_share))))
    width = min(n + 1, int(18 * deviation) + 40)
    first = np.clip((n * losses_share - width / 2).astype(int), 0, n + 1 - width)
    losses = first[:, None] + np.arange(width)
    needed, others = fewest[losses], n - losses
    rest = 1 - losses_share
    gain = np.clip(np.broadcast_to(gains_share, losses_share.shape) / np.where(rest > 0, rest, 1.0), 0.0, 1.0)[:, None]
    tail = np.where(needed > 0, special.bdtrc(np.maximum(needed - 1, 0), np.maximum(others, 1), gain), 1.0)
    tail = np.where(needed > others, 0.0, tail)
    weight = stats.binom.pmf(losses, n, losses_share[:, None])
    found: Floats = (weight * tail).sum(axis=1)
    return found
