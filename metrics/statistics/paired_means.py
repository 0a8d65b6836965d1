"""Test and interval of the true mean of paired differences, valid for skewed scores and for scores of few values.

Axes of arrays: B data sets, N differences in each.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import optimize, stats

from metrics.statistics.bootstrap import NUM_RESAMPLES, Floats, bca_mean

NEWTON_STEPS = 60


def p_mean_at_most(differences_BN: Floats, bound: float) -> Floats:
    """One-sided p of "the true mean is `bound` or less", for each data set: the less favourable of two.

    Student's t, and a test that adds one more pair, as bad as the largest difference seen in either direction: p is the chance
    that the differences' mean under random (Dirichlet) weights is `bound` or less. For differences of -1 and 0 that is
    Clopper and Pearson's exact test; t alone would pass runs in which rare large losses happen to be missing. Equal differences: see
    `p_equal_at_most`; here they give p = 1.
    Sources: Gaffke, Mathematical Methods of Statistics 14 (2005), 451-467; Learned-Miller and Thomas, arXiv:1905.06208.
    """
    n = differences_BN.shape[1]
    spread_B = differences_BN.std(axis=1, ddof=1)
    equal_B = spread_B <= 1e-12 * np.abs(differences_BN).max(axis=1)
    safe_B = np.where(equal_B, 1.0, spread_B)
    by_t_B = stats.t.sf((differences_BN.mean(axis=1) - bound) / (safe_B / math.sqrt(n)), n - 1)
    worst_B = -np.abs(differences_BN).max(axis=1)
    by_weights_B = _p_weighted_sum_negative(np.concatenate([differences_BN, worst_B[:, None]], axis=1) - bound)
    found: Floats = np.where(equal_B, 1.0, np.maximum(by_t_B, by_weights_B))
    return found


def p_equal_at_most(difference: float, n: int, span: float, bound: float) -> float:
    """The same for n differences that are all `difference`.

    They show no spread. But if a share q of all pairs behaved otherwise, n pairs would miss it with a chance of (1 - q)^n, and
    each such pair may be worse by `span`, the range of the scores. Never under 0.5^n, what n signs prove; 1 where the span is 0.
    """
    if span <= 0 or difference <= bound:
        return 1.0
    return float(max(max(0.0, 1 - (difference - bound) / span) ** n, 0.5**n))


def lower_bound(differences: Floats, alpha: float) -> float:
    """The lower bound of the true mean by `p_mean_at_most` at level alpha; the differences must not be all equal."""
    n, mean = len(differences), float(differences.mean())
    by_t = mean - float(stats.t.ppf(1 - alpha, n - 1)) * float(differences.std(ddof=1)) / math.sqrt(n)
    start = min(by_t, -float(np.abs(differences).max()))
    start -= 1e-9 * (mean - start)
    return float(optimize.brentq(lambda bound: p_mean_at_most(differences[None], bound)[0] - alpha, start, mean))


def mean_intervals(
    differences_BN: Floats, confidence: float, rng: np.random.Generator, num_resamples: int = NUM_RESAMPLES
) -> tuple[Floats, Floats]:
    """Ends of an interval of the mean for each data set: on each side the farther of Student's t and BCa.

    t is too short on the side of a long tail, BCa is too short for few values and for few distinct ones.
    """
    n = differences_BN.shape[1]
    mean_B = differences_BN.mean(axis=1)
    half_B = stats.t.ppf((1 + confidence) / 2, n - 1) * differences_BN.std(axis=1, ddof=1) / math.sqrt(n)
    low_B, high_B = bca_mean(differences_BN, confidence, rng, num_resamples)
    return np.minimum(low_B, mean_B - half_B), np.maximum(high_B, mean_B + half_B)


def _p_weighted_sum_negative(values_BN: Floats) -> Floats:
    """Chance that sum of E_i * values_i <= 0 with independent unit exponentials E_i, by Lugannani and Rice's saddle point.

    Source: Lugannani and Rice, Advances in Applied Probability 12 (1980), 475-490. The cumulant generating function is
    -sum of log(1 - s * values_i).
    """
    largest_B = np.abs(values_BN).max(axis=1, keepdims=True)
    scaled_BN = values_BN / np.where(largest_B > 0, largest_B, 1.0)
    p_B = np.where(scaled_BN.max(axis=1) <= 0, 1.0, 0.0)
    both = (scaled_BN.max(axis=1) > 1e-12) & (scaled_BN.min(axis=1) < -1e-12)
    if not both.any():
        return p_B
    y = scaled_BN[both]
    low, high = 1 / y.min(axis=1) * (1 - 1e-12), 1 / y.max(axis=1) * (1 - 1e-12)
    s = np.zeros(len(y))
    for _ in range(NEWTON_STEPS):
        ratio = y / (1 - s[:, None] * y)
        slope, curvature = ratio.sum(axis=1), (ratio**2).sum(axis=1)
        low, high = np.where(slope < 0, s, low), np.where(slope >= 0, s, high)
        step = s - slope / curvature
        new = np.where((step > low) & (step < high), step, (low + high) / 2)
        if np.all(np.abs(new - s) <= 1e-12 * (high - low + np.abs(s))):
            break
        s = new
    ratio = y / (1 - s[:, None] * y)
    v = s * np.sqrt((ratio**2).sum(axis=1))
    w = np.sign(s) * np.sqrt(2 * np.maximum(np.log1p(-s[:, None] * y).sum(axis=1), 0.0))
    central = np.abs(v) < 1e-3
    safe_v, safe_w = np.where(central, 1.0, v), np.where(central, 1.0, w)
    skewness = 2 * (y**3).sum(axis=1) / (y**2).sum(axis=1) ** 1.5
    near = 0.5 + skewness / (6 * math.sqrt(2 * math.pi))
    p_B[both] = np.clip(np.where(central, near, stats.norm.cdf(safe_w) + stats.norm.pdf(safe_w) * (1 / safe_w - 1 / safe_v)), 0.0, 1.0)
    return p_B
