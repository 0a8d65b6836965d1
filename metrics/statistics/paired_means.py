"""Test and interval of the true mean of paired differences, valid for skewed scores and for scores of few values.

Axes of arrays: B data sets, N differences in each.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from metrics.statistics.bootstrap import NUM_RESAMPLES, Floats, bca_mean

NEWTON_STEPS = 60
BISECTIONS = 48


def p_mean_at_most(differences_BN: Floats, bound: float | Floats, reach: float, weights_N: Floats | None = None) -> Floats:
    """One-sided p of "the true mean is `bound` or less", for each data set: the less favourable of two.

    Student's t, and a test that adds one more pair that is worse by `reach`, the most by which two scores can differ: p is the
    chance that the differences' mean under random (Dirichlet) weights is `bound` or less. For differences of -1 and 0 that is
    Clopper and Pearson's exact test. t alone would pass runs in which rare large losses happen to be missing, and so would a test
    that adds the largest difference seen: it is small where every answer seen is nearly the same. n pairs can therefore never rule out a
    loss of less than reach * (1 - alpha^(1/n)). Equal differences have no t; their p is never under 0.5^n, what n signs prove.
    bound: one for all, or one for each data set. weights_N: of the differences, where each is a cluster's mean; the added one is as
    heavy as the heaviest.
    Sources: Gaffke, Mathematical Methods of Statistics 14 (2005), 451-467; Learned-Miller and Thomas, arXiv:1905.06208.
    """
    n = differences_BN.shape[1]
    weights = np.ones(n) if weights_N is None else weights_N / weights_N.mean()
    bound_B = np.broadcast_to(np.asarray(bound, dtype=float), len(differences_BN))
    mean_B = (weights * differences_BN).mean(axis=1)
    spread_B = _spread(differences_BN, mean_B, weights)
    largest_B = np.abs(differences_BN).max(axis=1)
    equal_B = spread_B <= 1e-12 * largest_B
    safe_B = np.where(equal_B, 1.0, spread_B)
    by_signs_B = np.where(mean_B - bound_B > 1e-12 * np.maximum(reach, largest_B), 0.5**n, 1.0)
    by_t_B = np.where(equal_B, by_signs_B, stats.t.sf((mean_B - bound_B) / (safe_B / math.sqrt(n)), n - 1))
    added_B = weights.max() * (-np.maximum(reach, largest_B) - bound_B)
    by_weights_B = _p_weighted_sum_negative(np.column_stack([weights * (differences_BN - bound_B[:, None]), added_B]))
    found: Floats = np.maximum(by_t_B, by_weights_B)
    return found


def lower_bounds(differences_BN: Floats, alpha: float, reach: float, weights_N: Floats | None = None) -> Floats:
    """The lower bound of the true mean by `p_mean_at_most` at level alpha, for each data set; no lower than -reach."""
    weights = np.ones(differences_BN.shape[1]) if weights_N is None else weights_N / weights_N.mean()
    high_B = (weights * differences_BN).mean(axis=1)
    low_B = -np.maximum(reach, np.abs(differences_BN).max(axis=1))
    for _ in range(BISECTIONS):
        middle_B = (low_B + high_B) / 2
        above_B = p_mean_at_most(differences_BN, middle_B, reach, weights_N) > alpha
        low_B, high_B = np.where(above_B, low_B, middle_B), np.where(above_B, middle_B, high_B)
    found: Floats = low_B
    return found


def mean_intervals(
    differences_BN: Floats,
    confidence: float,
    reach: float,
    rng: np.random.Generator,
    num_resamples: int = NUM_RESAMPLES,
    weights_N: Floats | None = None,
) -> tuple[Floats, Floats]:
    """Ends of an interval of the mean for each data set: on each side the farther of BCa and of the bound by `p_mean_at_most`.

    BCa is too short for few values, for few distinct ones and where rare large differences are missing, t on the side of a long tail.
    """
    alpha = (1 - confidence) / 2
    low_B, high_B = bca_mean(differences_BN, confidence, rng, num_resamples, weights_N)
    lowest_B, highest_B = (sign * lower_bounds(sign * differences_BN, alpha, reach, weights_N) for sign in (1, -1))
    return np.minimum(low_B, lowest_B), np.maximum(high_B, highest_B)


def _spread(differences_BN: Floats, mean_B: Floats, weights_N: Floats) -> Floats:
    """Standard deviation of one difference; with weights, of one cluster's part in the mean (the linearised ratio of sums)."""
    n = differences_BN.shape[1]
    found: Floats = np.sqrt(((weights_N * (differences_BN - mean_B[:, None])) ** 2).sum(axis=1) / (n - 1))
    return found


def _p_weighted_sum_negative(values_BN: Floats) -> Floats:
    """Chance that sum of E_i * values_i <= 0 with independent unit exponentials E_i, by Lugannani and Rice's saddle point.

    Source: Lugannani and Rice, Advances in Applied Probability 12 (1980), 475-490. The cumulant generating function is
    -sum of log(1 - s * values_i).
    """
    largest_B = np.abs(values_BN).max(axis=1, keepdims=True)
    scaled_BN = values_BN / np.where(largest_B > 0, largest_B, 1.0)
    p_B = np.where(scaled_BN.max(axis=1) <= 1e-12, 1.0, 0.0)
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
