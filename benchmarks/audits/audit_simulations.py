"""Simulates audits whose true difference is known. Each function is one part of audit_statistics.py and returns one row a setting."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from metrics.statistics.bootstrap import bca_mean, log_ratio_intervals
from metrics.statistics.paired import Comparison, compare_shares, further_samples, verdicts
from metrics.statistics.paired_means import mean_intervals, p_mean_at_most
from metrics.statistics.paired_proportions import critical, p_difference_at_most, power, score_statistic
from metrics.statistics.power_analysis import Tail, pairs_for_mean, pairs_for_shares

ALPHA, POWER = 0.05, 0.9
PAIRS = (30, 64, 128, 248, 300)
NUM_RESAMPLES = 4000
Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, int]], Floats]


class Shape(NamedTuple):
    """A distribution of paired differences. mean: its true mean. reach: from a missing answer's score to the best. beyond: too extreme
    for a plan to have its power. cluster: pairs that belong to one prompt and share most of their difference.
    """

    draw: Draw
    mean: float
    reach: float
    beyond: bool = False
    cluster: int = 1


def values(points: Sequence[float], chances: Sequence[float]) -> Shape:
    return Shape(lambda rng, size: rng.choice(points, p=chances, size=size), float(np.dot(points, chances)), 1.0)


def collapses(share: float, jitter: float) -> Shape:
    """Answers differ by a little, and a share of them loses all of its score."""
    return Shape(lambda rng, size: rng.normal(0, jitter, size) - (rng.random(size) < share), -share, 1.0)


def several_seeds(draw: Draw, mean: float, size: int) -> Shape:
    """`size` answers to each prompt, or to near-duplicates of it: each differs by as much as the prompt does, and by a third of that."""

    def drawn(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
        num, n = shape
        own = draw(rng, (num, n // size)) - mean
        return np.repeat(own, size, axis=1) + rng.normal(0, 0.33, (num, n // size * size))

    return Shape(drawn, 0.0, 10.0, cluster=size)


SHAPES = {
    "normal": Shape(lambda rng, size: rng.normal(size=size), 0.0, 10.0),
    "heavy tails (t, 3 d.f.)": Shape(lambda rng, size: rng.standard_t(3, size=size), 0.0, 10.0),
    "long tail of losses (exponential)": Shape(lambda rng, size: -rng.exponential(size=size), -1.0, 10.0),
    "long tail of gains (exponential)": Shape(lambda rng, size: rng.exponential(size=size), 1.0, 10.0),
    "five values, even": values((-1, -0.5, 0, 0.5, 1), (0.03, 0.07, 0.8, 0.07, 0.03)),
    "four values, mostly losses": values((-1, -0.5, 0, 0.5), (0.03, 0.07, 0.88, 0.02)),
    "1 in 50 collapses, 1 % jitter": collapses(0.02, 0.01),
    "1 in 20 collapses, 5 % jitter": collapses(0.05, 0.05),
    "4 seeds a prompt (normal)": several_seeds(lambda rng, size: rng.normal(size=size), 0.0, 4),
    "4 seeds a prompt (losses)": several_seeds(lambda rng, size: -rng.exponential(size=size), -1.0, 4),
    "log-normal losses": Shape(lambda rng, size: -rng.lognormal(size=size), -math.exp(0.5), 10.0, True),
}
SHORT = ("1 in 50 collapses, 1 % jitter", "4 seeds a prompt (normal)", "normal")
DISCORDANCE = ((0.02, 0.01), (0.05, 0.02), (0.05, 0.05), (0.1, 0.05), (0.2, 0.05), (0.2, 0.1), (0.4, 0.1))  # prompts that differ, margin


def mean_row(name: str, n: int, num: int, rng: np.random.Generator) -> dict[str, Any]:
    """False PASS and FAIL rates at the margin: of the suite's test, of t, and of one that takes the largest difference seen for the reach,
    and every pair for another prompt (naive). Coverage of the suite's interval, of BCa and of t.
    """
    shape = SHAPES[name]
    singly = shape.draw(rng, (num, n))
    d = singly.reshape(num, -1, shape.cluster).mean(axis=2)
    num_clusters = d.shape[1]
    spread = d.std(axis=1, ddof=1)
    varies = spread > 0
    t = (d.mean(axis=1) - shape.mean) / np.where(varies, spread, 1) * math.sqrt(num_clusters)
    some = np.flatnonzero(varies)[: max(400, num // 4)]  # intervals take a hundred times as long as tests
    low, high = mean_intervals(d[some], 0.95, shape.reach, rng, NUM_RESAMPLES)
    bca = bca_mean(d[some], 0.95, rng, NUM_RESAMPLES)
    return {
        "kind": name,
        "n": n,
        "false_pass": float((p_mean_at_most(d, shape.mean, shape.reach) <= ALPHA).mean()),
        "false_fail": float((p_mean_at_most(-d, -shape.mean, shape.reach) <= ALPHA).mean()),
        "false_pass_naive": float((p_mean_at_most(singly, shape.mean, 0.0) <= ALPHA).mean()),
        "false_pass_t": float((varies & (t > stats.t.ppf(1 - ALPHA, num_clusters - 1))).mean()),
        "coverage": float(((low <= shape.mean) & (shape.mean <= high)).mean()),
        "coverage_bca": float(((bca[0] <= shape.mean) & (shape.mean <= bca[1])).mean()),
        "coverage_t": float((np.abs(t[varies]) <= stats.t.ppf(0.975, num_clusters - 1)).mean()),
        "beyond": shape.beyond,
    }


def share_row(differing: float, margin: float, n: int, num: int, rng: np.random.Generator) -> dict[str, Any]:
    """The same for shares, where the candidate is worse by the margin: of the exact test and of Tango's score test."""
    losses, gains = (differing + margin) / 2, (differing - margin) / 2
    counts = rng.multinomial(n, [losses, gains, 1 - losses - gains], size=num)[:, :2]
    unique, times = np.unique(counts, axis=0, return_counts=True)
    upper, lower = (
        np.array([p_difference_at_most(n, int(b), int(c), d) for b, c in columns])
        for columns, d in ((unique, -margin), (unique[:, ::-1], margin))
    )
    score = score_statistic(n, unique[:, 0], unique[:, 1], -margin)
    return {
        "kind": f"{differing:.0%} differ, margin {margin:.0%}",
        "n": n,
        "false_pass": share_of(times, upper <= ALPHA),
        "false_fail": share_of(times, lower <= ALPHA),
        "false_pass_tango": share_of(times, score >= stats.norm.ppf(1 - ALPHA)),
        "coverage": share_of(times, (upper > 0.025) & (lower > 0.025)),
        "coverage_tango": share_of(times, np.abs(score) <= stats.norm.ppf(0.975)),
        "beyond": False,
    }


def share_of(times: NDArray[np.int64], which: NDArray[np.bool_]) -> float:
    return float((times * which).sum() / times.sum())


def mean_powers(num: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Power at the planned number of pairs, for a candidate as good as the reference."""
    rows = []
    for name, shape in SHAPES.items():
        if shape.cluster > 1:
            continue
        spread, tail = first_look(shape, rng)
        for margin in (0.5, 0.35, 0.2):
            for planned in (0.8, POWER):
                n = pairs_for_mean(-margin * spread, 0.0, spread, ALPHA, planned, shape.reach, tail)
                assert n is not None
                d = shape.draw(rng, (num, n)) - shape.mean
                p = p_mean_at_most(d, -margin * spread, shape.reach)
                rows.append(
                    {
                        "kind": name,
                        "margin": f"{margin} sd",
                        "n": n,
                        "planned": planned,
                        "power": float((p <= ALPHA).mean()),
                        "beyond": shape.beyond,
                    }
                )
    return rows


def first_look(shape: Shape, rng: np.random.Generator) -> tuple[float, Tail]:
    """The spread and the tail that 64 pairs show: the median of many such samples."""
    d = shape.draw(rng, (4000, 64)) - shape.mean
    d = d[np.ptp(d, axis=1) > 0]
    spread = float(d.std())
    return spread, Tail(float(np.median(np.abs(d).max(axis=1)) / spread), 64, float(np.median(stats.skew(d, axis=1))))


def share_powers(num: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    rows = []
    for differing, margin in ((0.0, 0.02), (0.02, 0.05), (0.05, 0.05), (0.1, 0.05), (0.2, 0.1), (0.1, 0.02), (0.2, 0.03)):
        for planned in (0.8, POWER):
            n = pairs_for_shares(-margin, differing / 2, differing / 2, ALPHA, planned)
            assert n is not None
            counts = rng.multinomial(n, [differing / 2, differing / 2, 1 - differing], size=num)[:, :2]
            reached = float((score_statistic(n, counts[:, 0], counts[:, 1], -margin) >= critical(n, -margin, ALPHA)).mean())
            rows.append(
                {
                    "kind": f"{differing:.0%} differ",
                    "margin": f"{margin:.0%}",
                    "n": n,
                    "planned": planned,
                    "power": reached,
                    "beyond": False,
                }
            )
    return rows


def ratio_row(num_clusters: int, size: int, num: int, rng: np.random.Generator) -> dict[str, Any]:
    """Coverage of a speed-up's interval where the answers of a batch share their time: with clusters resampled, and with single pairs."""
    own = rng.lognormal(0.0, 0.3, (num, num_clusters, 1)) * np.ones(size)
    reference, candidate = (own * rng.lognormal(shift, 0.2, (num, num_clusters, 1)) for shift in (0.5, 0.0))
    low, high = log_ratio_intervals(reference.sum(axis=2), candidate.sum(axis=2), 0.95, rng, NUM_RESAMPLES)
    single = log_ratio_intervals(reference.reshape(num, -1), candidate.reshape(num, -1), 0.95, rng, NUM_RESAMPLES)
    return {
        "kind": f"{num_clusters} batches of {size}",
        "n": num_clusters * size,
        "coverage": float(((low <= 0.5) & (high >= 0.5)).mean()),
        "coverage_singly": float(((single[0] <= 0.5) & (single[1] >= 0.5)).mean()),
    }


def several_metrics(num: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Six metrics judged together under Holm, planned one by one and as `suite.py sample-size` plans them."""
    alone, together = (pairs_for_mean(-0.3, 0.0, 1.0, alpha, POWER, reach=10.0) for alpha in (ALPHA, ALPHA / 6))
    assert alone is not None
    assert together is not None
    rows = []
    for kind, n, true in (
        ("6 as good, planned at 5 % each", alone, (0.0,) * 6),
        ("6 as good, planned at 5 % / 6 each", together, (0.0,) * 6),
        ("5 as good, 1 worse by the margin", together, (0.0,) * 5 + (-0.3,)),
        ("6 worse by the margin", together, (-0.3,) * 6),
    ):
        d = rng.normal(size=(6, num, n)) * math.sqrt(0.5) + rng.normal(size=(1, num, n)) * math.sqrt(0.5) + np.array(true)[:, None, None]
        fine, worse = (np.array([p_mean_at_most(s * x, -s * 0.3, 10.0) for x in d]) for s in (1, -1))
        audits = [verdicts([bare(p, q) for p, q in zip(fine[:, i], worse[:, i], strict=True)]) for i in range(num)]
        wrong_pass = [any(v.verdict == "PASS" and m < 0 for v, m in zip(one.each, true, strict=True)) for one in audits]
        rows.append(
            {
                "kind": kind,
                "n": n,
                "each_passes": float(np.mean([one.each[0].verdict == "PASS" for one in audits])),
                "overall_pass": float(np.mean([one.overall == "PASS" for one in audits])),
                "overall_fail": float(np.mean([one.overall == "FAIL" for one in audits])),
                "any_false_pass": float(np.mean(wrong_pass)),
            }
        )
    return rows


def bare(p_not_worse: float, p_worse: float) -> Comparison:
    return Comparison("", "mean", 2, 0.0, 0.0, 0.0, None, None, 1.0, p_not_worse, p_worse, 1.0, 1.0, 0.0, 1.0)


def carried_on(num: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """False PASS rate at the margin of an audit of 64 pairs that, if INCONCLUSIVE, is continued by `further_samples`.

    pooled: all pairs are judged together. fresh: only the further ones.
    """
    rows = []
    for differing in (0.1, 0.2):
        margin, n = 0.05, 64
        losses, gains = (differing + margin) / 2, (differing - margin) / 2
        chances = [losses, gains, 1 - losses - gains]
        counts = rng.multinomial(n, chances, size=num)
        known: dict[tuple[int, int], int | None] = {}
        first, pooled, fresh, went_on = 0, 0, 0, 0
        for b, c, _ in counts:
            if (b, c) not in known:
                right = [1.0] * b + [0.0] * c + [1.0] * (n - b - c)
                wrong = [0.0] * b + [1.0] * c + [1.0] * (n - b - c)
                compared = compare_shares("", right, wrong, margin)
                known[b, c] = -1 if compared.p_not_worse <= ALPHA else further_samples(compared, at_most=2000)
            more = known[b, c]
            first += more == -1
            if more is not None and more > 0:
                went_on += 1
                x, y, _ = map(int, rng.multinomial(more, chances))
                pooled += int(score_statistic(n + more, b + x, c + y, -margin) >= critical(n + more, -margin, ALPHA))
                fresh += int(score_statistic(more, x, y, -margin) >= critical(more, -margin, ALPHA))
        rows.append(
            {
                "kind": f"{differing:.0%} differ, margin {margin:.0%}, 64 pairs",
                "at_once": first / num,
                "went_on": went_on / num,
                "pooled": float(first + pooled) / num,
                "fresh": float(first + fresh) / num,
            }
        )
    return rows


def largest_size() -> float:
    """Largest false PASS rate of the exact test at the margin, by summing the probabilities of all outcomes that pass."""
    worst = 0.0
    for n in PAIRS:
        for margin in (0.01, 0.02, 0.05, 0.1):
            for gains in (1 - margin) / 2 * np.linspace(0, 1, 200) ** 2:
                worst = max(worst, power(n, -margin, float(gains + margin), float(gains), ALPHA))
    return worst
