"""Seconds from a launch to its first line, to the loaded model, and from there to the first timed query, with output into a pipe.

python benchmarks/cpu/startup.py [--short] [--rounds 3]

--short: a weightless pipeline, once.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.harness.suite_runs import changes, run
from benchmarks.outcome import Figure, arguments, conclude

GOAL_S = 3.0  # from the loaded model to the first query
BRIEF = changes("load.min_duration_s=0.1", "load.min_query_count=8", "dataset.num_prompts=8", "report_videos=0", "metrics=[throughput]")
STAGES = {"first line": "prompts, the first", "model loaded": "loaded after", "first query": "test begins"}


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args(argv)
    presets = ["llm/toy"] if given.short else ["t2v/embedded", "llm/embedded", "vlm/embedded"]
    seen: dict[str, list[dict[str, float]]] = {preset: [] for preset in presets}
    for _ in range(1 if given.short else given.rounds):
        for preset, times in seen.items():
            done = run(["--config", preset, *BRIEF])
            times.append({stage: done.said(words) for stage, words in STAGES.items()})
    rows = [{"preset": p, **{f"{stage}, s": statistics.median(t[stage] for t in times) for stage in STAGES}} for p, times in seen.items()]
    waits = {preset: [t["first query"] - t["model loaded"] for t in times] for preset, times in seen.items()}
    figures = {
        f"{preset}: model loaded to first query": Figure(statistics.median(seconds), "s", "lower", GOAL_S, seconds)
        for preset, seconds in waits.items()
    }
    conclude("startup", figures, given, rows)


if __name__ == "__main__":
    main()
