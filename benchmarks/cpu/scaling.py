"""How much more two ranks answer than one, each with one thread: the embedded language and video models, in turn.

python benchmarks/cpu/scaling.py [--short] [--rounds 3] [--seconds 10]

--short: a toy on one rank, once.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.harness.suite_runs import changes, run
from benchmarks.outcome import Figure, arguments, conclude

GOAL = 1.9
UNITS = {"llm": "tokens_per_s", "t2v": "videos_per_s"}


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each run's test")
    given = parser.parse_args(argv)
    presets, num_rounds, ranks = ["llm/embedded", "t2v/embedded"], given.rounds, [1, 2]
    if given.short:
        presets, num_rounds, given.seconds, ranks = ["t2v/toy"], 1, 0.2, [1]
    brief = changes(f"load.min_duration_s={given.seconds}", "load.min_query_count=16", "report_videos=0", "metrics=[throughput]")
    brief += changes("truth.replays=0", *(("dataset.num_prompts=8",) if given.short else ("num_threads=1",)))
    rates: dict[tuple[str, int], list[float]] = {(preset, n): [] for preset in presets for n in ranks}
    for _ in range(num_rounds):
        for (preset, n), found in rates.items():
            found.append(run(["--config", preset, *brief], n).figure(UNITS[preset.partition("/")[0]]))
    rows = [{"preset": p, "ranks": n, "unit": UNITS[p.partition("/")[0]], "rate": statistics.median(v)} for (p, n), v in rates.items()]
    figures = {}
    for preset in presets:
        ratios = [two / one for one, two in zip(rates[preset, 1], rates[preset, ranks[-1]], strict=True)]
        figures[preset] = Figure(statistics.median(ratios), "times one rank", goal=None if given.short else GOAL, repeats=ratios)
    conclude("scaling", figures, given, rows)


if __name__ == "__main__":
    main()
