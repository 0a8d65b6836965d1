"""Sample sizes: the fewest pairs at which a comparison's test has the requested power.

bound: the true difference to rule out; -margin where "not worse" is to be shown. difference: the assumed true one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from scipy import optimize, special, stats

from metrics.statistics import paired_proportions

FEWEST = 30  # pairs; the test of means was validated from this number on
AT_MOST = 1_000_000
HEAVY = 1.1  # times the largest of as many normal values: tails above this are heavy
RESERVE = 1.15  # factor for heavy or skewed tails, which a small sample underestimates; benchmarks/audits/audit_statistics.py
EXACT_UP_TO = 1000  # pairs; beyond, the exact and the score test differ by less than the error of this plan


class Tail(NamedTuple):
    """The tails of n observed paired differences. largest: the largest absolute difference, in units of the spread.

    skewness: negative where losses are rare and large; positive skewness is ignored.
    """

    largest: float
    n: int
    skewness: float = 0.0

    @property
    def is_heavy(self) -> bool:
        return self.largest > HEAVY * _largest_of(self.n) or self.skewness < -0.5


def pairs_for_mean(
    bound: float,
    difference: float,
    spread: float,
    alpha: float,
    power: float,
    reach: float,
    tail: Tail | None = None,
    at_most: int = AT_MOST,
) -> int | None:
    """Pairs for which `p_mean_at_most` rules out `bound`; None where the true difference does not exceed it by so much that
    `at_most` would do.

    spread: standard deviation of the paired differences; 0 where all are equal. reach: as the test has it. tail: what is known of their
    tails; a normal distribution's where not given.
    """
    if difference <= bound:
        return None
    found = _fewest(lambda n: power_of_mean(n, bound, difference, spread, alpha, reach, tail) >= power, at_most)
    if found is None or tail is None or not tail.is_heavy:
        return found
    return more if (more := math.ceil(found * RESERVE)) <= at_most else None


def power_of_mean(n: int, bound: float, difference: float, spread: float, alpha: float, reach: float, tail: Tail | None = None) -> float:
    """Power of `p_mean_at_most` by the normal distribution, with what skewness does to its threshold and to Student's t.

    The pair that the test adds raises its threshold, and so does skewness, by the second term of Cornish and Fisher's expansion.
    Student's t has the mean and variance that follow from the moments of the sample variance; the kurtosis is taken to be that of a
    gamma distribution of that skewness.
    """
    if spread <= 1e-9 * reach:
        return float((1 - (difference - bound) / max(reach + difference, difference - bound)) ** n <= alpha and 0.5**n <= alpha)
    skew, root = min(tail.skewness, 0.0) if tail else 0.0, math.sqrt(n)
    z = float(stats.t.ppf(1 - alpha, n - 1))
    threshold = max(z, _guard_threshold(n, (reach + bound) / spread, alpha)) - (z * z - 1) * skew / (3 * root)
    distance = (difference - bound) / spread * root
    variance = (1.5 * skew**2 + 2) / n  # of the sample variance over the true one
    mean = distance * (1 + 3 / 8 * variance) - skew / (2 * root)
    deviation = math.sqrt(1 + distance**2 * variance / 4 - distance * skew / root)
    return float(stats.norm.cdf((mean - threshold) / deviation))


def _guard_threshold(n: int, added: float, alpha: float) -> float:
    """How many standard errors the mean must be above the bound for the pair that the test adds.

    added: how far that pair is below the bound, in units of the spread. The weighted sum of n pairs is taken to be normal, so that the
    test's p is the tail of a normal less an exponential variable of mean `added`.
    """
    if added <= 0:
        return -math.inf

    def excess(z: float) -> float:
        mean, deviation = z * math.sqrt(n), math.sqrt(n + z * z)
        log_tail = -mean / added + (deviation / added) ** 2 / 2 + float(special.log_ndtr(mean / deviation - deviation / added))
        return float(special.ndtr(-mean / deviation)) + math.exp(log_tail) - alpha

    high = 1.0
    while excess(high) > 0 and high < 1e9:
        high *= 2
    return float(optimize.brentq(excess, 0.0, high))


def _largest_of(n: int) -> float:
    """The median of the largest size among n normal values."""
    return float(stats.norm.ppf((1 + 0.5 ** (1 / n)) / 2))


def pairs_for_shares(bound: float, losses: float, gains: float, alpha: float, power: float, at_most: int = AT_MOST) -> int | None:
    """Pairs for which the exact test rules out `bound`, with these true shares of losses and gains; None as for means.

    Power goes up and down a little with n, as counts are whole; this is the first n on the rise that reaches it.
    """
    if gains - losses <= bound:
        return None
    n = _fewest(lambda n: _score_power(n, bound, losses, gains, alpha) >= power, at_most)
    if n is None or n > EXACT_UP_TO:
        return n

    def suffices(n: int) -> bool:
        return paired_proportions.power(n, bound, losses, gains, alpha) >= power

    step = max(1, n // 50)
    while suffices(n) and n > FEWEST:
        n = max(FEWEST, n - step)
    while not suffices(n):
        n += step
    while step > 1:
        step = max(1, step // 2)
        while n - step >= FEWEST and suffices(n - step):
            n -= step
    return n if n <= at_most else None


def _score_power(n: int, bound: float, losses: float, gains: float, alpha: float) -> float:
    """Power of Tango's test by the normal distribution."""
    linear = losses + gains + (gains - losses - 2) * bound
    share = (linear + math.sqrt(max(linear**2 + 8 * losses * bound * (1 - bound), 0.0))) / 4
    assumed = math.sqrt(2 * share + bound - bound**2)
    true = math.sqrt(max(losses + gains - (gains - losses) ** 2, 0.0))
    above = (gains - losses - bound) * math.sqrt(n) - float(stats.norm.ppf(1 - alpha)) * assumed
    return float(stats.norm.cdf(above / true)) if true else float(above >= 0)


def _fewest(suffices: Callable[[int], bool], at_most: int) -> int | None:
    """The fewest pairs that suffice, where more always do; None where not even `at_most` do."""
    low, high = FEWEST, FEWEST
    while not suffices(high):
        if high >= at_most:
            return None
        low, high = high + 1, min(high * 2, at_most)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(middle) else (middle + 1, high)
    return low
