"""The highest server rate that LoadGen calls VALID with engines that answer at once: what conductor and wire allow.

python benchmarks/rate.py [--rates 10000 20000 ...] [--seconds 10] [--policy least_tokens]

Two ranks under `accelerate launch`, the limits of MLPerf's Llama 2 70B server (TTFT 2 s, TPOT 200 ms at p99) and answers of
294 tokens. Everything is on: first tokens and ends as separate events, the dispatch policy, one Record a query on disk.
The engines add nothing, so the time to first token is what the suite adds. Prints a table and a histogram, and one JSON line last.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import msgspec
import numpy as np

from benchmarks.outcome import conclude
from workloads.records import Record

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
GOAL_QPS, GOAL_P99_S = 40_000, 0.020
NUM_TOKENS = 294  # MLPerf's mean for Llama 2 70B
RATES = (10_000, 20_000, 30_000, 40_000, 50_000, 60_000, 80_000)
BINS_MS = (0, 0.25, 0.5, 1, 2, 3, 5, 7.5, 10, 15, 20, 30, 50, 100, float("inf"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rates", type=int, nargs="+", default=RATES, help="queries a second, ascending; the first INVALID one ends it")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each test")
    parser.add_argument("--policy", default="least_tokens", help="least_tokens, shortest_queue or round_robin")
    parser.add_argument("--ranks", type=int, default=2)
    given = parser.parse_args()
    if "RANK" not in os.environ:
        launcher = Path(sys.executable).with_name("accelerate")
        config = ROOT / "configs/accelerate/cpu_2.yaml"
        command = [launcher, "launch", "--config_file", config, "--num_processes", str(given.ranks), "--main_process_port", "0"]
        raise SystemExit(subprocess.call([*map(str, command), __file__, *sys.argv[1:]]))
    with tempfile.TemporaryDirectory(prefix="triptych-rate-") as folder:
        measure(given, Path(folder))


def measure(given: argparse.Namespace, folder: Path) -> None:
    """On every rank: one LoadGen test a rate."""
    import benchmarks.null_engine  # noqa: F401  (registers the pipeline)
    from configs.registry import make
    from configs.run_config import parse_config
    from pipelines.launcher import Test, begin_run, join_ranks, share
    from workloads.loadgen import read_summary

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
    test = Test(ranks, make("pipelines", "null_llm", config.pipeline_options), samples, "answers")
    best: dict[str, Any] = {"rate": 0, "p99_s": 0.0}
    if ranks.rank == 0:
        print(f"{'queries/s':>10} {'LoadGen':>8} {'completed/s':>12} {'tokens/s':>12} {'TTFT p50':>9} {'p99':>9} {'max':>9}  records")
    for rate in given.rates:
        own = Path(share(str(folder / str(rate)), ranks))
        one = config.model_copy(update={"load": config.load.model_copy(update={"target_qps": float(rate)})})
        if ranks.rank == 0:
            (own / "media").mkdir(parents=True)
            begin_run(own, one, samples)
        outcome = test.run(one, "performance", own)
        verdict = ""
        if ranks.rank == 0:
            summary = read_summary(own / "performance")
            verdict = summary.get("Result is", "INVALID")
            ttft_s = first_token_times(own)
            p50, p99 = np.percentile(ttft_s, [50, 99]) * 1e3
            completed = float(summary.get("Completed samples per second", 0))
            whole = len(ttft_s) == outcome["num_issued"]
            print(
                f"{rate:10,} {verdict:>8} {completed:12,.0f} {completed * NUM_TOKENS:12,.0f} {p50:6.2f} ms {p99:6.2f} ms "
                f"{ttft_s.max() * 1e3:6.1f} ms  {len(ttft_s):,} of {outcome['num_issued']:,}",
                flush=True,
            )
            if verdict == "VALID" and whole and p99 < GOAL_P99_S * 1e3:
                best = {"rate": rate, "completed_per_s": completed, "p99_s": p99 / 1e3, "p50_s": p50 / 1e3, "ttft_s": ttft_s}
        if share(verdict, ranks) != "VALID":
            break
    if ranks.rank == 0:
        if best["rate"]:
            print_histogram(best["rate"], best.pop("ttft_s"))
        tokens = best.get("completed_per_s", 0.0) * NUM_TOKENS
        conclude(
            "rate",
            best["rate"],
            "queries/s",
            GOAL_QPS,
            best["rate"] >= GOAL_QPS,
            ttft_p50_ms=round(best.get("p50_s", 0.0) * 1e3, 2),
            ttft_p99_ms=round(best["p99_s"] * 1e3, 2),
            tokens_per_s=round(tokens),
            ranks=ranks.world_size,
            policy=given.policy,
            seconds=given.seconds,
        )


def first_token_times(folder: Path) -> NDArray[np.float64]:
    """Seconds from the scheduled time to the first token, of every Record."""
    decode = msgspec.json.Decoder(Record).decode
    with (folder / "records.jsonl").open("rb") as lines:
        records = [decode(line) for line in lines]
    return np.array([r.first_token_s - r.issued_s for r in records if r.first_token_s is not None])


def print_histogram(rate: int, ttft_s: NDArray[np.float64]) -> None:
    counts, _ = np.histogram(ttft_s * 1e3, [-float("inf"), *BINS_MS[1:]])
    print(f"\nadded by conductor and wire at {rate:,} queries/s:")
    for low, high, count in zip(BINS_MS, BINS_MS[1:], counts, strict=False):
        label = f"{low:g} to {high:g} ms" if high != float("inf") else f"over {low:g} ms"
        print(f"{label:>16} {count / len(ttft_s):7.2%} {'#' * round(60 * count / max(counts))}")


if __name__ == "__main__":
    main()
