"""What the suite leaves of an engine's speed: runs of suite.py against the same pipeline, prompts and batches in a bare loop, in turn.

python benchmarks/cpu/overhead.py [--short] [--rounds 5] [--seconds 10]

The suite's rate is that of its report: LoadGen, dispatch, records, videos written. The bare loop is in this process, one thread each.
--short: a toy, once.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from benchmarks.harness.suite_runs import changes, run
from benchmarks.outcome import Figure, arguments, conclude
from configs.load_config import load_config
from configs.registry import make
from pipelines.base import Pipeline, StreamingPipeline
from workloads.base import Workload, read_samples
from workloads.records import Query, Sample, query_seed

UNITS = {"llm": "tokens_per_s", "t2v": "frames_per_s"}
GOALS = {"t2v": 0.99, "llm": 0.97}


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each run's test, and of each loop")
    given = parser.parse_args(argv)
    presets = ["t2v/embedded", "llm/embedded"]
    if given.short:
        presets, given.rounds, given.seconds = ["t2v/toy"], 1, 0.2
    torch.set_num_threads(1)
    ratios: dict[str, list[float]] = {preset: [] for preset in presets}
    rates: dict[str, list[tuple[float, float]]] = {preset: [] for preset in presets}
    loops = {preset: BareLoop(preset) for preset in presets}
    brief = changes(f"load.min_duration_s={given.seconds}", "load.min_query_count=8", "report_videos=0", "metrics=[throughput]")
    brief += changes("truth.replays=0", "num_threads=1")
    for _ in range(given.rounds):
        for preset in presets:
            bare = loops[preset].rate(given.seconds)
            suite = run(["--config", preset, *brief]).figure(UNITS[preset.partition("/")[0]])
            rates[preset].append((suite, bare))
            ratios[preset].append(suite / bare)
    figures = {
        preset: Figure(
            statistics.median(found), "of the bare engine", goal=None if given.short else GOALS[preset.partition("/")[0]], repeats=found
        )
        for preset, found in ratios.items()
    }
    rows = [
        {"preset": p, "round": n, "suite, units/s": s, "bare, units/s": b} for p, each in rates.items() for n, (s, b) in enumerate(each, 1)
    ]
    conclude("overhead", figures, given, rows)


class BareLoop:
    """The preset's pipeline, loaded and warm, answering its prompts over and over as fast as it can."""

    def __init__(self, preset: str) -> None:
        config = load_config(None, preset, [])
        workload: Workload = make("workloads", config.workload, config.dataset)
        self._samples = read_samples(workload, config.workload)
        self._pipeline: Pipeline = make("pipelines", config.pipeline_name, config.pipeline_options)
        self._pipeline.workload = config.workload
        self._pipeline.load(torch.device("cpu"))
        self._next = 0
        self._answer(self._pipeline.batch_size)

    def rate(self, seconds: float) -> float:
        """Units a second, over whole batches."""
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            count += self._answer(self._pipeline.batch_size if not isinstance(self._pipeline, StreamingPipeline) else len(self._samples))
        return count / (time.perf_counter() - began)

    def _answer(self, num: int) -> int:
        samples: list[Sample] = [self._samples[(self._next + i) % len(self._samples)] for i in range(num)]
        queries = [Query(self._next + i, s.index, query_seed(42, s.index)) for i, s in enumerate(samples)]
        self._next += num
        if isinstance(self._pipeline, StreamingPipeline):
            self._pipeline.submit(samples, queries)
            count, waiting = 0, num
            while waiting:
                for event in self._pipeline.step(1.0):
                    if event.response is not None:
                        count, waiting = count + event.response.num_units, waiting - 1
            return count
        return sum(r.num_units or len(r.video_THWC or ()) for r in self._pipeline.generate(samples, queries))


if __name__ == "__main__":
    main()
