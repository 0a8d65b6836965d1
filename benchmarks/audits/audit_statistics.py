"""How often an audit's statistics are wrong: simulated pairs of runs whose true difference is known.

python benchmarks/audits/audit_statistics.py [--simulations 2000] [--picture docs/audit_statistics.png]

For means of normal, heavy-tailed, skewed and few-valued differences and for shares at several rates of disagreement, with 30 to
300 pairs: how often a candidate that is worse by exactly the margin passes, how often the 95 % interval holds the truth, and
whether the planned number of pairs gives the planned power. Then ratios over batches, several metrics under Holm, and
audits that are carried on. The tails marked "beyond" are there to show what no test of that many pairs can see. Prints tables,
draws a picture, and ends with one JSON line. Twelve minutes or so on one core.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.outcome import conclude
from metrics.statistics.bootstrap import bca_mean, log_ratio_intervals
from metrics.statistics.paired import Comparison, compare_shares, further_samples, verdicts
from metrics.statistics.paired_means import mean_intervals, p_mean_at_most
from metrics.statistics.paired_proportions import critical, p_difference_at_most, power, score_statistic
from metrics.statistics.power_analysis import Tail, pairs_for_mean, pairs_for_shares

ALPHA, POWER = 0.05, 0.9
PAIRS = (30, 64, 128, 248, 300)
NUM_RESAMPLES = 4000
COVERAGE = (0.935, 0.965)
Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, int]], Floats]


class Shape(NamedTuple):
    """How paired differences are distributed. mean: their true one. beyond: too extreme for a promise."""

    draw: Draw
    mean: float
    beyond: bool = False


def values(points: Sequence[float], chances: Sequence[float], beyond: bool = False) -> Shape:
    return Shape(lambda rng, size: rng.choice(points, p=chances, size=size), float(np.dot(points, chances)), beyond)


SHAPES = {
    "normal": Shape(lambda rng, size: rng.normal(size=size), 0.0),
    "heavy tails (t, 3 d.f.)": Shape(lambda rng, size: rng.standard_t(3, size=size), 0.0),
    "long tail of losses (exponential)": Shape(lambda rng, size: -rng.exponential(size=size), -1.0),
    "long tail of gains (exponential)": Shape(lambda rng, size: rng.exponential(size=size), 1.0),
    "five values, even": values((-1, -0.5, 0, 0.5, 1), (0.03, 0.07, 0.8, 0.07, 0.03)),
    "four values, mostly losses": values((-1, -0.5, 0, 0.5), (0.03, 0.07, 0.88, 0.02)),
    "beyond: log-normal losses": Shape(lambda rng, size: -rng.lognormal(size=size), -math.exp(0.5), True),
    "beyond: 1 in 20 collapses": Shape(lambda rng, size: rng.normal(0, 0.05, size) - (rng.random(size) < 0.05), -0.05, True),
}
DISCORDANCE = ((0.02, 0.01), (0.05, 0.02), (0.05, 0.05), (0.1, 0.05), (0.2, 0.05), (0.2, 0.1), (0.4, 0.1))  # prompts that differ, margin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulations", type=int, default=2000, help="of each setting")
    parser.add_argument("--picture", type=Path, default=Path(__file__).resolve().parents[2] / "docs/audit_statistics.png")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng = np.random.default_rng(given.seed)
    num = given.simulations
    parts: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "means": lambda: [mean_row(name, n, num, rng) for name in SHAPES for n in PAIRS],
        "shares": lambda: [share_row(differing, margin, n, num, rng) for differing, margin in DISCORDANCE for n in PAIRS],
        "power": lambda: mean_powers(num, rng) + share_powers(num, rng),
        "ratios": lambda: [ratio_row(clusters, size, num, rng) for clusters, size in ((64, 1), (8, 8), (16, 8), (32, 8))],
        "several": lambda: several_metrics(num, rng),
        "carried_on": lambda: carried_on(num, rng),
    }
    found = {}
    for name, part in parts.items():
        found[name] = part()
        print_rows(name, found[name])
    worst = largest_size()
    print(f"\nshares, by adding up all outcomes: largest false PASS rate over n of 30 to 300 and all rates of disagreement {worst:.4f}")
    draw_picture(found, given.picture)
    judge(found, worst, num)


def mean_row(name: str, n: int, num: int, rng: np.random.Generator) -> dict[str, Any]:
    """False PASS and FAIL rates at the margin, by the test in use and by t alone; coverage of the interval in use, of BCa and of t."""
    shape = SHAPES[name]
    d = shape.draw(rng, (num, n))
    spread = d.std(axis=1, ddof=1)
    told = spread > 0
    t = (d.mean(axis=1) - shape.mean) / np.where(told, spread, 1) * math.sqrt(n)
    low, high = mean_intervals(d[told], 0.95, rng, NUM_RESAMPLES)
    bca = bca_mean(d[told], 0.95, rng, NUM_RESAMPLES)
    return {
        "kind": name,
        "n": n,
        "false_pass": float((p_mean_at_most(d, shape.mean) <= ALPHA).mean()),
        "false_fail": float((p_mean_at_most(-d, -shape.mean) <= ALPHA).mean()),
        "false_pass_t": float((told & (t > stats.t.ppf(1 - ALPHA, n - 1))).mean()),
        "coverage": float(((low <= shape.mean) & (shape.mean <= high)).mean()),
        "coverage_bca": float(((bca[0] <= shape.mean) & (shape.mean <= bca[1])).mean()),
        "coverage_t": float((np.abs(t[told]) <= stats.t.ppf(0.975, n - 1)).mean()),
        "beyond": shape.beyond,
    }


def share_row(differing: float, margin: float, n: int, num: int, rng: np.random.Generator) -> dict[str, Any]:
    """The same for shares, the candidate being worse by the margin, and of Tango's score test beside the exact one."""
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
    """Power at the number of pairs that was planned, for a candidate as good as the reference."""
    rows = []
    for name, shape in SHAPES.items():
        spread, tail = first_look(shape, rng)
        for margin in (0.5, 0.35, 0.2):
            for planned in (0.8, POWER):
                n = pairs_for_mean(-margin * spread, 0.0, spread, ALPHA, planned, tail)
                assert n is not None
                d = shape.draw(rng, (num, n)) - shape.mean
                p = p_mean_at_most(d, -margin * spread)
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
    """The spread, and the tail as 64 pairs would show it: the median of many such looks."""
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
    """Coverage of a speed-up's interval where the answers of a batch share their time: clusters drawn whole, and pairs drawn singly."""
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
    alone, together = (pairs_for_mean(-0.3, 0.0, 1.0, alpha, POWER) for alpha in (ALPHA, ALPHA / 6))
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
        fine, worse = (np.array([p_mean_at_most(s * x, -s * 0.3) for x in d]) for s in (1, -1))
        found = [verdicts([bare(p, q) for p, q in zip(fine[:, i], worse[:, i], strict=True)]) for i in range(num)]
        wrong_pass = [any(v.verdict == "PASS" and m < 0 for v, m in zip(one.each, true, strict=True)) for one in found]
        rows.append(
            {
                "kind": kind,
                "n": n,
                "each_passes": float(np.mean([one.each[0].verdict == "PASS" for one in found])),
                "overall_pass": float(np.mean([one.overall == "PASS" for one in found])),
                "overall_fail": float(np.mean([one.overall == "FAIL" for one in found])),
                "any_false_pass": float(np.mean(wrong_pass)),
            }
        )
    return rows


def bare(p_not_worse: float, p_worse: float) -> Comparison:
    return Comparison("", "mean", 2, 0.0, 0.0, 0.0, None, None, 1.0, p_not_worse, p_worse, 1.0, 1.0, 0.0, 1.0)


def carried_on(num: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """False PASS rate at the margin of an audit of 64 pairs that goes on, where it is INCONCLUSIVE, as `further_samples` says.

    pooled: all pairs are judged together; fresh: the further ones alone.
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
                x, y, _ = rng.multinomial(more, chances)
                pooled += score_statistic(n + more, b + x, c + y, -margin) >= critical(n + more, -margin, ALPHA)
                fresh += score_statistic(more, x, y, -margin) >= critical(more, -margin, ALPHA)
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
    """Largest false PASS rate of the exact test at the margin, by adding up the chances of all outcomes that pass."""
    worst = 0.0
    for n in PAIRS:
        for margin in (0.01, 0.02, 0.05, 0.1):
            for gains in (1 - margin) / 2 * np.linspace(0, 1, 200) ** 2:
                worst = max(worst, power(n, -margin, float(gains + margin), float(gains), ALPHA))
    return worst


def print_rows(name: str, rows: Sequence[dict[str, Any]]) -> None:
    keys = [key for key in rows[0] if key != "beyond"]
    width = max(len(str(row["kind"])) for row in rows) + 2
    print(f"\n{name.replace('_', ' ')}\n" + "".join(f"{key:{width}}" if key == "kind" else f"{key:>17}" for key in keys))
    for row in rows:
        cells = (
            f"{row[key]:{width}}" if key == "kind" else f"{row[key]:17.3f}" if isinstance(row[key], float) else f"{row[key]:>17}"
            for key in keys
        )
        print("".join(cells), flush=True)


def rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}


def draw_picture(found: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """A row a setting: false PASS rate at the margin, coverage, and power beyond what was planned."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(15, 7.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    rows = found["means"] + found["shares"]
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    shades = dict(zip(PAIRS, ("#9ec5f4", "#6ba3ea", "#2f6fde", "#1c4aa0", "#0d2a63"), strict=True))
    for axes, rate, other in (
        (left, "false_pass", ("false_pass_t", "false_pass_tango")),
        (middle, "coverage", ("coverage_t", "coverage_tango")),
    ):
        for row in rows:
            y = kinds.index(row["kind"]) + (PAIRS.index(row["n"]) - 2) * 0.14
            usual = next(row[key] for key in other if key in row)
            axes.plot([usual], [y], "o", markersize=4, markerfacecolor="none", markeredgecolor="#d9822b")
            axes.plot([row[rate]], [y], "o", markersize=5, color=shades[row["n"]])
        axes.set(yticks=range(len(kinds)), ylim=(len(kinds) - 0.4, -0.6))
        axes.axhline(len(SHAPES) - 0.5, color="#687076", linewidth=0.8)
    left.set_yticklabels(kinds)
    left.axvline(ALPHA, color="#e5484d", linewidth=1)
    left.set(
        title="PASS of a candidate that is worse\nby exactly the margin (at most 0.05)", xlabel="share of audits", xlim=(-0.005, 0.225)
    )
    middle.set_yticklabels([])
    middle.axvspan(*COVERAGE, color="#e3e6ec", zorder=0)
    middle.axvline(0.95, color="#e5484d", linewidth=1)
    middle.set(title="95 % interval holds the true difference\n(band: 0.95 +- 0.015)", xlabel="share of audits", xlim=(0.77, 1.005))
    powers = found["power"]
    names = list(dict.fromkeys(row["kind"] for row in powers))
    for row in powers:
        y = names.index(row["kind"]) + (0.15 if row["planned"] == POWER else -0.15)
        right.plot([row["power"] - row["planned"]], [y], "s" if row["planned"] == POWER else "^", markersize=5, color="#2f6fde")
    right.axvline(0, color="#e5484d", linewidth=1)
    right.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.4, -0.6), xlim=(-0.2, 0.22))
    right.set(title="power at the planned number of pairs,\nover (+) or under (-) what was planned", xlabel="share of audits")
    right.axhline(len(SHAPES) - 0.5, color="#687076", linewidth=0.8)
    right.legend(
        handles=[Line2D([], [], marker=m, linestyle="", color="#2f6fde", label=f"planned {p}") for m, p in (("^", 0.8), ("s", POWER))],
        loc="lower right",
        fontsize=8,
    )
    handles = [Line2D([], [], marker="o", linestyle="", color=shades[n], label=f"{n} pairs") for n in PAIRS]
    handles.append(
        Line2D([], [], marker="o", linestyle="", markerfacecolor="none", markeredgecolor="#d9822b", label="Student's t; Tango's score test")
    )
    left.legend(handles=handles, loc="lower right", fontsize=8)
    for axes in (left, middle, right):
        axes.grid(axis="x", color="#e3e6ec", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8.5)
        axes.title.set_fontsize(10)
    figure.savefig(path, dpi=90)


def judge(found: dict[str, list[dict[str, Any]]], worst: float, num: int) -> None:
    """Say what held. A rate may miss its goal by two standard deviations of the simulation itself."""
    rows = found["means"] + found["shares"]
    allowed = ALPHA + 2 * math.sqrt(ALPHA * (1 - ALPHA) / num)
    promised = [row for row in rows if not row["beyond"]]
    highest = max(max(row["false_pass"], row["false_fail"]) for row in promised)
    low = [f"{row['kind']}, n {row['n']}: {row['coverage']:.3f}" for row in rows if row["coverage"] < COVERAGE[0]]
    high = [f"{row['kind']}, n {row['n']}: {row['coverage']:.3f}" for row in rows if row["coverage"] > COVERAGE[1]]
    short = min(row["power"] - row["planned"] for row in found["power"] if not row["beyond"])
    for title, cases in (("below", low), ("above", high)):
        print(f"\ncoverage {title} 95 % +- 1.5:", *(cases or ["none"]), sep="\n  ")
    conclude(
        "audit_statistics",
        highest,
        "highest rate of false PASS or FAIL at the margin",
        ALPHA,
        highest <= allowed
        and worst <= ALPHA + 1e-4
        and not [case for case in low if "beyond" not in case and "n 30:" not in case]
        and short >= -0.03,
        simulations=num,
        shares_largest_size=round(worst, 4),
        beyond={f"{row['kind']}, n {row['n']}": row["false_pass"] for row in rows if row["beyond"]},
        coverage_below=low,
        coverage_above=high,
        power_least_minus_planned=round(short, 4),
        allowed=round(allowed, 4),
        rows={part: [rounded(row) for row in found[part]] for part in ("means", "shares", "power", "ratios")},
        several={row["kind"]: {k: v for k, v in row.items() if k != "kind"} for row in found["several"]},
        carried_on={row["kind"]: {k: round(v, 4) for k, v in row.items() if k != "kind"} for row in found["carried_on"]},
    )


if __name__ == "__main__":
    main()
