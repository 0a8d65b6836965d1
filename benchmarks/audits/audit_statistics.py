"""Error rates of an audit's statistics: simulated pairs of runs whose true difference is known.

python benchmarks/audits/audit_statistics.py [--short] [--simulations 2000] [--picture docs/audit_statistics.png]

For means of normal, heavy-tailed, skewed and few-valued differences and for shares at several rates of disagreement, with 30 to
300 pairs: how often a candidate that is worse by exactly the margin passes, how often the 95 % interval contains the true value, and
whether the planned number of pairs gives the planned power. Then ratios over batches, several metrics under Holm, and
audits that are continued. Prints tables and draws a picture; the last line is JSON. Half an hour on one core. --short: rare collapses
under jitter, several seeds a prompt and normal differences with 64 pairs and, unless --simulations is given, 100 simulations; no picture.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from benchmarks.audits.audit_picture import COVERAGE, draw_picture
from benchmarks.audits.audit_simulations import (
    ALPHA,
    DISCORDANCE,
    PAIRS,
    SHAPES,
    SHORT,
    carried_on,
    largest_size,
    mean_powers,
    mean_row,
    ratio_row,
    several_metrics,
    share_powers,
    share_row,
)
from benchmarks.outcome import Figure, arguments, conclude, print_table

RATE = "highest rate of false PASS or FAIL at the margin"
NUM_SIMULATIONS, FEW_SIMULATIONS = 2000, 100


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--simulations", type=int, help=f"of each setting (default: {NUM_SIMULATIONS}, with --short {FEW_SIMULATIONS})")
    parser.add_argument("--picture", type=Path, default=Path(__file__).resolve().parents[2] / "docs/audit_statistics.png")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(argv)
    rng = np.random.default_rng(given.seed)
    num = given.simulations or (FEW_SIMULATIONS if given.short else NUM_SIMULATIONS)
    if given.short:
        rows = [mean_row(name, 64, num, rng) for name in SHORT]
        highest = max(max(row["false_pass"], row["false_fail"]) for row in rows)
        conclude("audit_statistics", {RATE: Figure(highest, "of audits", better="lower", goal=allowed(num))}, given, rows, simulations=num)
        return
    parts: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "means": lambda: [mean_row(name, n, num, rng) for name in SHAPES for n in PAIRS],
        "shares": lambda: [share_row(differing, margin, n, num, rng) for differing, margin in DISCORDANCE for n in PAIRS],
        "power": lambda: mean_powers(num, rng) + share_powers(num, rng),
        "ratios": lambda: [ratio_row(clusters, size, num, rng) for clusters, size in ((64, 1), (8, 8), (16, 8), (32, 8))],
        "several": lambda: several_metrics(num, rng),
        "carried_on": lambda: carried_on(num, rng),
    }
    results = {}
    for name, part in parts.items():
        results[name] = part()
        print(f"\n{name.replace('_', ' ')}")
        print_table([{key: value for key, value in row.items() if key != "beyond"} for row in results[name]])
    worst = largest_size()
    print(f"\nshares, by summing all outcomes: largest false PASS rate over n of 30 to 300 and all rates of disagreement {worst:.4f}")
    draw_picture(results, given.picture)
    judge(given, results, worst, num)


def allowed(num: int) -> float:
    """The level and two standard deviations of a rate in so many simulations."""
    return ALPHA + 2 * math.sqrt(ALPHA * (1 - ALPHA) / num)


def judge(given: argparse.Namespace, results: dict[str, list[dict[str, Any]]], worst: float, num: int) -> None:
    """Conclude. A rate may miss its goal by two standard deviations of the simulation."""
    rows = results["means"] + results["shares"]
    highest = max(max(row["false_pass"], row["false_fail"]) for row in rows)
    low = [f"{row['kind']}, n {row['n']}: {row['coverage']:.3f}" for row in rows if row["coverage"] < COVERAGE[0]]
    high = [f"{row['kind']}, n {row['n']}: {row['coverage']:.3f}" for row in rows if row["coverage"] > COVERAGE[1]]
    short = min(row["power"] - row["planned"] for row in results["power"] if not row["beyond"])
    for title, cases in (("below", low), ("above", high)):
        print(f"\ncoverage {title} 95 % +- 1.5:", *(cases or ["none"]), sep="\n  ")
    conclude(
        "audit_statistics",
        {
            RATE: Figure(highest, "of audits", better="lower", goal=allowed(num)),
            "largest false PASS rate of shares, exact": Figure(worst, "of audits", better="lower", goal=ALPHA + 1e-4),
            "power above the planned one, least": Figure(short, "of audits", goal=-0.03),
        },
        given,
        conditions={"no coverage below 95 % - 1.5": not low},
        simulations=num,
        coverage_below=low,
        coverage_above=high,
        parts=results,
    )


if __name__ == "__main__":
    main()
