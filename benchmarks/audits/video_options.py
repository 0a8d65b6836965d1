"""Speed-ups of options of diffusers_t2v on this CPU: the embedded video model with and without each, in one process.

python benchmarks/audits/video_options.py [--short] [--rounds 3] [--folder FOLDER]

Each candidate alternates with the baseline on the same four prompts, 20 steps, one thread. The result is the ratio of CPU seconds, which
depends less on other work than wall time: the median over the rounds, and the mean difference of pixels. Options whose package is missing,
or that this machine cannot run, are listed with the reason. Prints a table; the last line is JSON. Ten minutes on one core.
--short: one candidate, one clip and one step.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch

from benchmarks.audits.audited_speedups import candidates, write_checkpoints
from benchmarks.outcome import Figure, arguments, conclude
from configs.errors import ConfigError
from configs.load_config import load_config
from configs.registry import make
from workloads.records import Query, Sample
from workloads.t2v import draw_captions

NUM_CLIPS, NUM_STEPS = 4, 20
SHORT = "first_block, mild"  # the candidate of --short


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each candidate")
    parser.add_argument("--folder", type=Path, default=Path("outputs/video_options"), help="the folder of checkpoints that some need")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    selected = {name: one for name, one in candidates(given.folder).items() if one.ranks == 1}
    num_clips, num_steps = NUM_CLIPS, NUM_STEPS
    if given.short:
        selected, given.rounds, num_clips, num_steps = {SHORT: selected[SHORT]}, 1, 1, 1
    baseline = load((), num_steps)
    rows: list[dict[str, Any]] = []
    print(f"{'candidate':42}{'speed':>8}{'pixels moved':>14}")
    for name, one in selected.items():
        try:
            write_checkpoints(given.folder, {name: one})
            pipeline = load(one.settings, num_steps)
        except (ConfigError, ImportError) as error:
            rows.append({"candidate": name, "speed": None, "why": str(error)})
            print(f"{name:42}       -  {error}", flush=True)
            continue
        answer(pipeline, num_clips)  # compiles and imports on first use
        times: list[tuple[float, float]] = []
        for _ in range(given.rounds):
            before, expected = answer(baseline, num_clips)
            after, pixels = answer(pipeline, num_clips)
            times.append((before, after))
        ratio = statistics.median(before / after for before, after in times)
        moved = float(np.abs(pixels - expected).mean())
        rows.append({"candidate": name, "speed": ratio, "repeats": [b / a for b, a in times], "pixels_moved": round(moved, 2)})
        print(f"{name:42}{ratio:7.2f}x{moved:14.2f}", flush=True)
    figures = {row["candidate"]: Figure(row["speed"], "times as fast", repeats=row["repeats"]) for row in rows if row["speed"] is not None}
    table = [{key: row.get(key, "") for key in ("candidate", "speed", "pixels_moved", "why")} for row in rows]
    conclude("video_options", figures, given, table, {"any option was timed": bool(figures)})


def load(settings: tuple[str, ...], num_steps: int) -> Any:
    changes = [f"pipeline.num_inference_steps={num_steps}", *(s for s in settings if s.startswith("pipeline."))]
    config = load_config("t2v", None, changes)
    pipeline = make("pipelines", config.pipeline_name, config.pipeline_options)
    pipeline.workload = "t2v"
    pipeline.load(torch.device("cpu"))
    return pipeline


def answer(pipeline: Any, num_clips: int) -> tuple[float, Any]:
    """CPU seconds of one batch, and its pixels."""
    samples = [Sample(i, text) for i, (_, text) in enumerate(draw_captions("simple", num_clips, "any"))]
    start = time.process_time()
    responses = pipeline.generate(samples, [Query(i, i, i) for i in range(num_clips)])
    return time.process_time() - start, np.array([r.video_THWC for r in responses]).astype(int)


if __name__ == "__main__":
    main()
