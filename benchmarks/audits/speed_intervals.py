"""Coverage of the intervals of `suite.py compare`: two runs of random service times, whose true speed-up is 1.

python benchmarks/audits/speed_intervals.py [--short]

correlation: of one batch's time with the next one's, as under a clock that drifts. held: share of pairs whose interval contains
1. Two minutes; the last line is JSON. --short: a few pairs of the smallest cases.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.outcome import Figure, arguments, conclude
from configs.load_config import parse_config
from metrics.base import Run
from metrics.performance.speed import slowness, speed_up, throughput
from workloads.records import Record
from workloads.t2v import TextToVideo

PAIRS, FEW, SPREAD = 500, 5, 0.3  # of the logarithm of a batch's time
GOAL = 0.92
STRONG = 0.9  # correlation that no interval from within one run of that length can account for; shown, but not part of the goal

# scenario, batches, batch size, ranks, correlation
CASES: tuple[tuple[str, int, int, int, float], ...] = (
    ("offline", 100, 1, 1, 0.0),
    ("offline", 25, 4, 1, 0.0),
    ("offline", 100, 4, 4, 0.0),
    ("offline", 200, 1, 1, 0.5),
    ("offline", 200, 1, 1, 0.9),
    ("offline", 2000, 1, 1, 0.9),
    ("single_stream", 64, 1, 1, 0.0),
    ("single_stream", 256, 1, 1, 0.0),
    ("single_stream", 256, 1, 1, 0.7),
)


def batch_times(rng: np.random.Generator, num: int, correlation: float) -> NDArray[np.float64]:
    """Log-normal times, autoregressive of order 1."""
    noise = rng.normal(0, SPREAD, num)
    logs = noise.copy()
    for i in range(1, num):
        logs[i] = correlation * logs[i - 1] + np.sqrt(1 - correlation**2) * noise[i]
    return np.exp(logs)


def make_run(scenario: str, seconds: Sequence[float] | NDArray[np.float64], batch_size: int, ranks: int) -> Run:
    """A run whose batches go to the rank that is free first."""
    config = parse_config({"workload": "t2v", "scenario": scenario, "pipeline": {"name": "toy_t2v"}}, "speed_intervals.py")
    free_s, records = [0.0] * ranks, list[Record]()
    for batch_s in seconds:
        rank = int(np.argmin(free_s))
        begin, free_s[rank] = free_s[rank], free_s[rank] + float(batch_s)
        issued = 0.0 if scenario == "offline" else begin
        for _ in range(batch_size):
            records.append(Record(len(records), 0, 0, "performance", "done", rank, issued, free_s[rank], started_s=begin, num_units=9))
    return Run(Path(), config, TextToVideo(), [], records, {})


def main(argv: Sequence[str] | None = None) -> None:
    given = arguments(__doc__).parse_args(argv)
    rows = list[dict[str, Any]]()
    least = 1.0
    num_pairs = FEW if given.short else PAIRS
    for scenario, num, batch_size, ranks, correlation in CASES[:2] if given.short else CASES:
        rng, num_covered, widths = np.random.default_rng(0), 0, []
        for _ in range(num_pairs):
            pair = [make_run(scenario, batch_times(rng, num, correlation), batch_size, ranks) for _ in range(2)]
            one, other = (throughput(run) if scenario == "offline" else slowness(run, "latency", 0.9) for run in pair)
            assert one
            assert other
            ci95 = speed_up(one, other).ci95
            assert ci95
            num_covered += ci95[0] <= 1 <= ci95[1]
            widths.append(ci95[1] / ci95[0])
        case = {"scenario": scenario, "batches": num, "batch_size": batch_size, "ranks": ranks, "correlation": correlation}
        rows.append({**case, "held": num_covered / num_pairs, "width": round(float(np.median(widths)), 3)})
        if correlation < STRONG:
            least = min(least, num_covered / num_pairs)
    figures = {"intervals that hold the truth, worst case": Figure(least, "of 95 % intervals", goal=GOAL)}
    conclude("speed_intervals", figures, given, rows, pairs=num_pairs)


if __name__ == "__main__":
    main()
