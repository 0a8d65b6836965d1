"""CPU seconds and memory to score a finished run and write its report, for as many answers as MLPerf's largest set and for a million.

python benchmarks/cpu/scoring.py [--short] [--rounds 3]

The run folder is made by hand: tasks of the embedded world with their right answers, 25 tokens each with every gap. `suite.py report` is a
process of its own, whose CPU time and peak memory are measured, imports and plots included. --short: 500 answers, in this process.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import msgspec

from benchmarks.outcome import Figure, arguments, conclude
from configs.load_config import parse_config
from metrics.report.finish import write_report
from pipelines.launcher.provenance import write_manifest
from pipelines.launcher.replay import digest_of_text
from workloads.llm import Language
from workloads.records import Record, query_seed
from workloads.run_folder.files import write_config, write_json, write_samples

SUITE = Path(__file__).resolve().parents[2] / "suite.py"
OPENORCA, MANY = 24_576, 1_000_000  # samples of MLPerf's llama2-70b; a long run over them
NUM_TOKENS, PERIOD_S = 25, 0.01
GOAL_S, MANY_GOAL_S, MEMORY_GOAL_GB = 5.0, 60.0, 2.0


class Cost(NamedTuple):
    cpu_s: float
    memory_gb: float


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="reports of the smaller run; the median counts")
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="triptych-scoring-") as place:
        folder = Path(place) / "run"
        if given.short:
            make_run(folder, 500, 500)
            began = time.process_time()
            write_report(folder)
            figures = {"500 answers": Figure(time.process_time() - began, "CPU s", better="lower")}
        else:
            make_run(folder, OPENORCA, OPENORCA)
            costs = [report(folder) for _ in range(given.rounds)]
            make_run(Path(place) / "many", OPENORCA, MANY)
            many = report(Path(place) / "many")
            seconds = [cost.cpu_s for cost in costs]
            figures = {
                f"{OPENORCA:,} answers": Figure(statistics.median(seconds), "CPU s", "lower", GOAL_S, seconds),
                f"{MANY:,} answers": Figure(many.cpu_s, "CPU s", "lower", MANY_GOAL_S),
                f"memory of {MANY:,}": Figure(many.memory_gb, "GB", "lower", MEMORY_GOAL_GB),
            }
    conclude("scoring", figures, given)


def make_run(folder: Path, num_samples: int, num_records: int) -> None:
    """A run folder of right answers, each sample as often as it fits."""
    (folder / "performance").mkdir(parents=True)
    values = {"workload": "llm", "pipeline": {"name": "toy_llm"}, "dataset": {"num_prompts": num_samples}}
    config, samples = parse_config(values, "scoring"), list(Language(num_prompts=num_samples).samples())
    write_config(folder, config)
    write_samples(folder, samples)
    gaps = [0.02] * (NUM_TOKENS - 1)
    with (folder / "records.jsonl").open("wb") as file:
        for i in range(num_records):
            sample, start = samples[i % num_samples], i * PERIOD_S
            text, first = str(sample.meta.get("answer", "")), start + 0.05
            record = Record(
                *(i, sample.index, query_seed(42, sample.index), "performance", "done", 0, 0.0, first + sum(gaps)),
                started_s=start,
                num_units=NUM_TOKENS,
                num_input_tokens=len(sample.prompt.split()),
                first_token_s=first,
                first_token_id=1,
                finish_reason="stop",
                token_gap_s=gaps,
                digest=digest_of_text(text),
                text=text,
                worked_s=(start, first + sum(gaps)),
            )
            file.write(msgspec.json.encode(record) + b"\n")
    ranks = [{"rank": 0, "device": "cpu", "batch_size": 1, "effective": {}, "fallbacks": []}]
    outcome = {"aborted": None, "num_issued": num_records, "num_done": num_records, "num_failed": 0, "target_qps": 100.0, "ranks": ranks}
    write_json(folder / "outcome.json", {"performance": outcome})
    write_json(folder / "system.json", {})
    write_manifest(folder, config, samples, sealed=True)


def report(folder: Path) -> Cost:
    """What `suite.py report` takes. Raises RuntimeError where it wrote none."""
    process = subprocess.Popen([sys.executable, str(SUITE), "report", str(folder)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout
    last = process.stdout.read().splitlines()[-1:]
    _, _, used = os.wait4(process.pid, 0)
    process.returncode = 0  # waited for above
    if not last or "verdict" not in json.loads(last[0]):
        raise RuntimeError(f"suite.py report {folder} gave no report")
    return Cost(used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e9)


if __name__ == "__main__":
    main()
