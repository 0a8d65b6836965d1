"""False alarms: correct pipelines, run many times through suite.py. No truth check may differ, and no canary may trigger.

python benchmarks/audits/honest_runs.py [--short] [--toy 100] [--embedded 30] [--folder FOLDER]

Every run has a seed of its own. Toys run in all scenarios, panels and both modes, on one rank and on two; the embedded models in their
panels. The result of a run is a line of FOLDER/honest_runs.jsonl, and runs that have one are not repeated, so that the benchmark can be
interrupted. Runs that are INVALID for another reason, such as LoadGen's on a busy machine, are counted separately. The last line is JSON.
--short: one run of a toy, in a folder of its own.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scipy.stats import beta

from benchmarks.audits.suite_runs import suite
from benchmarks.outcome import Figure, arguments, conclude

ROOT = Path(__file__).resolve().parents[2]
SHORT = ["load.min_duration_s=0.5", "load.min_query_count=64", "report_videos=0", "metrics=[throughput]"]
FEW = ["load.min_duration_s=2", "load.min_query_count=16", "dataset.num_prompts=16", "report_videos=0", "metrics=[throughput]"]
SHORT_CASE = "llm"  # of --short

PACED = ["--set", "pipeline.prefill_s=0.02", "--set", "pipeline.token_s=0.002", "--set", "load.target_qps=400"]

TOYS: dict[str, tuple[int, list[str]]] = {  # name -> ranks, arguments
    "t2v": (1, ["--config", "t2v/toy"]),
    "t2v, 2 ranks": (2, ["--config", "t2v/toy"]),
    "t2v, single stream": (1, ["--config", "t2v/toy", "--scenario", "single_stream", "--set", "pipeline.seconds=0.005"]),
    "t2v, both modes": (1, ["--config", "t2v/toy", "--mode", "both", "--set", "pipeline.batch_size=4"]),
    "llm": (1, ["--config", "llm/toy", *PACED]),
    "llm, 2 ranks": (2, ["--config", "llm/toy", *PACED]),
    "llm, server": (1, ["--config", "llm/toy", "--scenario", "server", "--set", "load.target_qps=60"]),
    "llm, accuracy": (1, ["--config", "llm/toy", "--mode", "accuracy"]),
    "vlm": (1, ["--config", "vlm/toy"]),
    "vlm, 2 ranks": (2, ["--config", "vlm/toy"]),
}
EMBEDDED: dict[str, tuple[int, list[str]]] = {
    "embedded t2v": (1, ["--config", "t2v/embedded"]),
    "embedded t2v in bfloat16": (1, ["--config", "t2v/embedded", "--set", "pipeline.dtype=bfloat16"]),
    "embedded t2v, 2 ranks": (2, ["--config", "t2v/embedded"]),
    "embedded llm": (1, ["--config", "llm/embedded"]),
    "embedded llm, single stream": (1, ["--config", "llm/embedded", "--scenario", "single_stream"]),
    "embedded llm in bfloat16": (1, ["--config", "llm/embedded", "--set", "pipeline.dtype=bfloat16"]),
    "embedded llm, 2 ranks": (2, ["--config", "llm/embedded"]),
    "embedded gpt-oss": (1, ["--config", "llm/embedded-moe"]),
    "embedded vlm": (1, ["--config", "vlm/embedded"]),
    "embedded vlm in bfloat16": (1, ["--config", "vlm/embedded", "--set", "pipeline.dtype=bfloat16"]),
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--toy", type=int, default=100, help="runs of toys")
    parser.add_argument("--embedded", type=int, default=30, help="runs of the embedded models")
    parser.add_argument("--folder", type=Path, default=ROOT / "outputs/honest_runs", help="the folder of runs and results")
    given = parser.parse_args(argv)
    if given.short:
        with tempfile.TemporaryDirectory(prefix="triptych-honest-") as place:
            given.folder, given.toy, given.embedded = Path(place), 1, 0
            measure(given, {SHORT_CASE: TOYS[SHORT_CASE]})
    else:
        measure(given, TOYS)


def measure(given: argparse.Namespace, toys: Mapping[str, tuple[int, list[str]]]) -> None:
    """Make the runs that are missing, and conclude."""
    folder = given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "honest_runs.jsonl"
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
    done = {(line["case"], line["seed"]): line for line in lines}
    planned = [*_cases(toys, SHORT, given.toy), *_cases(EMBEDDED, FEW, given.embedded)]
    for case, seed, num_ranks, words in planned:
        if (case, seed) not in done:
            done[case, seed] = {"case": case, "seed": seed, **_run(folder, num_ranks, [*words, "--seed", str(seed)])}
            with file.open("a", encoding="utf-8") as results:
                results.write(json.dumps(done[case, seed]) + "\n")
            print(json.dumps(done[case, seed]), file=sys.stderr, flush=True)
    runs = [done[case, seed] for case, seed, *_ in planned]
    alarms = [line for line in runs if line["alarms"]]
    broken = [line for line in runs if line["verdict"] is None]
    by_case = {case: sum(line["case"] == case for line in runs) for case in dict.fromkeys(line["case"] for line in runs)}
    other = sum(line["verdict"] == "INVALID" and not line["alarms"] for line in runs)
    rows = [{"case": case, "runs": count, "false alarms": sum(line["case"] == case for line in alarms)} for case, count in by_case.items()]
    figures = {
        "false alarms": Figure(len(alarms), f"of {len(runs)} runs", better="lower", goal=0),
        "share of runs with one, at most (95 % confidence)": Figure(_at_most(len(alarms), len(runs)), "of runs", better="lower"),
        "runs without a report": Figure(len(broken), f"of {len(runs)} runs", better="lower", goal=0),
    }
    more = {"invalid_otherwise": other, "alarms": [[line["case"], line["alarms"]] for line in alarms]}
    conclude("honest_runs", figures, given, rows, **more)


def _cases(cases: Mapping[str, tuple[int, list[str]]], changes: list[str], count: int) -> list[tuple[str, int, int, list[str]]]:
    """The cases in turn, each with the next seed."""
    turns = itertools.islice(itertools.cycle(cases.items()), count)
    settings = [word for change in changes for word in ("--set", change)]
    return [(name, 1000 + number, num_ranks, [*words, *settings]) for number, (name, (num_ranks, words)) in enumerate(turns)]


def _run(folder: Path, num_ranks: int, words: list[str]) -> dict[str, Any]:
    """Make one run. verdict is None if it wrote no report."""
    output = folder / "run"
    shutil.rmtree(output, ignore_errors=True)
    start = time.monotonic()
    errors = suite([*words, "--output", str(output)], None, num_ranks)
    result: dict[str, Any] = {"seconds": round(time.monotonic() - start, 1)}
    try:
        report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    except OSError:
        return {**result, "verdict": None, "alarms": [], "reasons": errors[-2000:].splitlines()}
    truth = [f"{check['name']}: {check['told']}" for check in report["truth"] if check["result"] == "differs"]
    return {**result, "verdict": report["verdict"], "alarms": truth + report["alarms"], "reasons": report["reasons"]}


def _at_most(count: int, total: int) -> float:
    """Upper bound of the share of false alarms, with 95 % confidence (Clopper and Pearson, one-sided)."""
    return float(beta.ppf(0.95, count + 1, total - count)) if total > count else 1.0


if __name__ == "__main__":
    main()
