"""The highest server rate that LoadGen calls VALID with engines that answer immediately: the limit of the conductor and its messages.

python benchmarks/rate.py [--rates 10000 20000 ...] [--seconds 10] [--repeats 3] [--policy least_tokens] [--picture FILE]

Two ranks under `accelerate launch`, the limits of MLPerf's Llama 2 70B server (TTFT 2 s, TPOT 200 ms at p99) and answers of
294 tokens. Everything is on: first tokens and completions as separate events, the dispatch policy, one Record a query on disk.
The engines compute nothing, so the time to first token is what the suite adds. Every rate is tested several times, and the trial with the
median p99 counts, because one trial on a shared machine depends on the other work. Prints a table and a histogram; the last line is JSON.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import msgspec
import numpy as np

from benchmarks.outcome import Figure, arguments, conclude
from workloads.records import Record

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from configs.run_config import RunConfig
    from pipelines.launcher.session import Session

ROOT = Path(__file__).resolve().parents[1]
GOAL_QPS, GOAL_P99_S = 40_000, 0.020
NUM_TOKENS = 294  # MLPerf's mean for Llama 2 70B
RATES = (10_000, 20_000, 30_000, 40_000, 50_000, 60_000, 80_000)
BINS_MS = (0, 0.25, 0.5, 1, 2, 3, 5, 7.5, 10, 15, 20, 30, 50, 100, float("inf"))


@dataclass(frozen=True)
class Trial:
    """One LoadGen test at one rate. ttft_s: of every Record. complete: every query that was issued has a Record."""

    verdict: str
    completed_per_s: float
    ttft_s: NDArray[np.float64]
    complete: bool

    @property
    def p99_s(self) -> float:
        return float(np.percentile(self.ttft_s, 99))


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rates", type=int, nargs="+", default=RATES, help="queries a second, ascending; the first INVALID one ends it")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each test")
    parser.add_argument("--repeats", type=int, default=3, help="tests at each rate; the one with the median p99 counts")
    parser.add_argument("--policy", default="least_tokens", help="least_tokens, shortest_queue or round_robin")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--picture", type=Path, help="file (.png) for the histogram at the highest rate that holds")
    given = parser.parse_args(argv)
    if "RANK" not in os.environ:
        launcher = Path(sys.executable).with_name("accelerate")
        config = ROOT / "configs/accelerate/cpu_2.yaml"
        command = [launcher, "launch", "--config_file", config, "--num_processes", str(given.ranks), "--main_process_port", "0"]
        raise SystemExit(subprocess.call([*map(str, command), __file__, *sys.argv[1:]]))
    with tempfile.TemporaryDirectory(prefix="triptych-rate-") as folder:
        measure(given, Path(folder))


def measure(given: argparse.Namespace, folder: Path) -> None:
    """Run the LoadGen tests of every rate, on every rank, and report on the first."""
    import benchmarks.null_engine  # noqa: F401  (registers the pipeline)
    from configs.load_config import parse_config
    from configs.registry import make
    from pipelines.distributed.ranks import join_ranks, share
    from pipelines.launcher.session import Session

    values: dict[str, Any] = {
        "workload": "llm",
        "scenario": "server",
        "pipeline": {"name": "null_llm", "num_tokens": NUM_TOKENS},
        "load": {"target_ttft_s": 2.0, "target_tpot_s": 0.2, "target_percentile": 0.99, "min_duration_s": given.seconds},
        "dispatch": {"policy": given.policy, "max_in_flight": 100_000},
        "num_threads": 1,
    }
    config = parse_config(values, "rate.py")
    ranks = join_ranks(config)
    samples = list(make("workloads", "llm", {}).samples())
    session = Session(ranks, make("pipelines", "null_llm", config.pipeline_options), samples, "answers")
    middle: dict[int, Trial] = {}
    p99_ms: dict[int, list[float]] = {}
    if ranks.rank == 0:
        print(f"{'queries/s':>10} {'LoadGen':>8} {'completed/s':>12} {'tokens/s':>12} {'TTFT p50':>9} {'p99':>9} {'max':>9}  records")
    for rate in given.rates:
        one = config.model_copy(update={"load": config.load.model_copy(update={"target_qps": float(rate)})})
        trials = [run_trial(session, one, Path(share(str(folder / f"{rate}-{n}"), ranks))) for n in range(given.repeats)]
        if ranks.rank == 0:
            ordered = sorted((t for t in trials if t is not None), key=lambda t: t.p99_s)
            middle[rate] = ordered[len(ordered) // 2]
            p99_ms[rate] = [round(t.p99_s * 1e3, 2) for t in ordered]
        if not share(ranks.rank == 0 and all(t is not None and t.verdict == "VALID" for t in trials), ranks):
            middle.pop(rate, None)
            break
    if ranks.rank == 0:
        report(given, middle, p99_ms, ranks.world_size)


def run_trial(session: Session, config: RunConfig, folder: Path) -> Trial | None:
    """Run one test and print a line about it. Returns None on ranks other than the first."""
    from workloads.loadgen.load_test import read_summary
    from workloads.run_folder.files import begin_run

    first = session.ranks.rank == 0
    if first:
        (folder / "media").mkdir(parents=True)
        begin_run(folder, config, session.samples)
    outcome = session.run(config, "performance", folder)
    if not first:
        return None
    summary = read_summary(folder / "performance")
    ttft_s = first_token_times(folder)
    completed = float(summary.get("Completed samples per second", 0))
    trial = Trial(summary.get("Result is", "INVALID"), completed, ttft_s, len(ttft_s) == outcome["num_issued"])
    print(
        f"{config.load.target_qps:10,.0f} {trial.verdict:>8} {completed:12,.0f} {completed * NUM_TOKENS:12,.0f} "
        f"{np.median(ttft_s) * 1e3:6.2f} ms {trial.p99_s * 1e3:6.2f} ms {ttft_s.max() * 1e3:6.1f} ms  "
        f"{len(ttft_s):,} of {outcome['num_issued']:,}",
        flush=True,
    )
    return trial


def first_token_times(folder: Path) -> NDArray[np.float64]:
    """Seconds from the scheduled time to the first token, of every Record."""
    decode = msgspec.json.Decoder(Record).decode
    with (folder / "records.jsonl").open("rb") as lines:
        records = [decode(line) for line in lines]
    return np.array([r.first_token_s - r.issued_s for r in records if r.first_token_s is not None])


def report(given: argparse.Namespace, middle: Mapping[int, Trial], p99_ms: Mapping[int, Sequence[float]], num_ranks: int) -> None:
    """Print the histogram and the last line. middle: the trial with the median p99, of each rate whose tests were all VALID."""
    passed = [rate for rate, t in middle.items() if t.complete and t.p99_s < GOAL_P99_S]
    best = max(passed, default=0)
    if best:
        print_histogram(best, middle[best].ttft_s)
        if given.picture:
            draw_histogram(given.picture, best, middle[best])
    conclude(
        "rate",
        {"rate": Figure(best, "queries/s", goal=GOAL_QPS)},
        given,
        ttft_p50_ms=round(float(np.median(middle[best].ttft_s)) * 1e3, 2) if best else None,
        ttft_p99_ms={str(rate): list(values) for rate, values in p99_ms.items()},
        tokens_per_s=round(middle[best].completed_per_s * NUM_TOKENS) if best else 0,
        highest_valid=max(middle, default=0),
        ranks=num_ranks,
        policy=given.policy,
        seconds=given.seconds,
        repeats=given.repeats,
    )


def print_histogram(rate: int, ttft_s: NDArray[np.float64]) -> None:
    counts, _ = np.histogram(ttft_s * 1e3, [-float("inf"), *BINS_MS[1:]])
    print(f"\nadded by conductor and messages at {rate:,} queries/s:")
    for low, high, count in zip(BINS_MS, BINS_MS[1:], counts, strict=False):
        label = f"{low:g} to {high:g} ms" if high != float("inf") else f"over {low:g} ms"
        print(f"{label:>16} {count / len(ttft_s):7.2%} {'#' * round(60 * count / max(counts))}")


def draw_histogram(path: Path, rate: int, trial: Trial) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3), dpi=110)
    edges = np.geomspace(0.1, max(100.0, trial.ttft_s.max() * 1e3), 80)
    weights = np.full(len(trial.ttft_s), 100 / len(trial.ttft_s))
    axes.hist(np.clip(trial.ttft_s * 1e3, edges[0], None), edges.tolist(), weights=weights, color="#4269d0")
    for share, name in ((50, "p50"), (99, "p99")):
        at_ms = float(np.percentile(trial.ttft_s, share)) * 1e3
        axes.axvline(at_ms, color="#333", linewidth=0.8)
        axes.text(at_ms * 1.04, axes.get_ylim()[1] * 0.97, f" {name}: {at_ms:.1f}", fontsize=8)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set(
        xscale="log",
        xlabel="added by conductor and messages, ms",
        ylabel="% of queries",
        title=f"{rate:,} queries/s, {len(trial.ttft_s):,} queries",
    )
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, bbox_inches="tight")


if __name__ == "__main__":
    main()
