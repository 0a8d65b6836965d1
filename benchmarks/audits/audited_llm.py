"""Are the verdicts of audits of texts right? As audited_speedups.py, for the embedded language model.

python benchmarks/audits/audited_llm.py [--short] [--prompts 100] [--margin 5%] [--folder FOLDER]

The reference is the dense model in float32 with greedy decoding. Candidates: bfloat16; weights rounded row by row to fewer bits but
computed in float32; a layer left out; tokens sampled at a temperature; static batches. Each is audited on exact matches, and compared with
the exact matches of ten times as many prompts. Ten minutes on one core. --short: one candidate, the toy
pipeline and six prompts, compared with themselves, in a folder of its own.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.audits.audited_speedups import ROOT, TIMES, print_row, slug
from benchmarks.audits.suite_runs import suite
from benchmarks.outcome import Figure, arguments, conclude
from metrics.statistics.paired import compare_shares, verdicts

METRIC = "exact_match"
MODEL = ROOT / "pipelines/embedded/llm_dense"
MADE = "MADE"  # in a setting: the folder of models derived from the embedded one
TOY = ("--config", "llm/toy")  # of --short
CANDIDATES = {
    "bfloat16": ["pipeline.dtype=bfloat16"],
    "static batches": ["pipeline.batching=static"],
    "int8 weights": [f"pipeline.model={MADE}/int8"],
    "int4 weights": [f"pipeline.model={MADE}/int4"],
    "int3 weights": [f"pipeline.model={MADE}/int3"],
    "int2 weights": [f"pipeline.model={MADE}/int2"],
    "3 of 4 layers": [f"pipeline.model={MADE}/layers"],
    "temperature 0.5": ["pipeline.do_sample=true", "pipeline.temperature=0.5"],
    "temperature 1.5": ["pipeline.do_sample=true", "pipeline.temperature=1.5"],
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--prompts", type=int, default=100, help="of the audits; the runs for comparison have ten times as many")
    parser.add_argument("--margin", default="5%", help="of the reference's exact matches")
    parser.add_argument("--folder", type=Path, default=ROOT / "outputs/audited_llm", help="the folder of models, runs and audits")
    given = parser.parse_args(argv)
    if given.short:
        with tempfile.TemporaryDirectory(prefix="triptych-audited-") as place:
            given.folder, given.prompts = Path(place), 6
            measure(given, {"half wrong": ["pipeline.error_rate=0.5"]}, 1, TOY)
    else:
        make_models(given.folder.resolve() / "models")
        measure(given, CANDIDATES, TIMES)


def measure(
    given: argparse.Namespace, candidates: Mapping[str, list[str]], times: int, words: Sequence[str] = ("--workload", "llm")
) -> None:
    """Make the runs, audit them, and conclude. words: of the command of all runs."""
    folder = given.folder.resolve()
    few, many = (folder / str(num) for num in (given.prompts, times * given.prompts))
    rows: list[dict[str, Any]] = []
    for name, settings in candidates.items():
        for place in (few, many):
            make_run(place / "reference", int(place.name), [], words)
            make_run(place / slug(name), int(place.name), [s.replace(MADE, str(folder / "models")) for s in settings], words)
        rows.append(judge(few, many, name, given.margin))
        print_row(rows[-1], first=len(rows) == 1)
    wrong = [row["candidate"] for row in rows if row["agrees"] is False]
    settled = sum(row["agrees"] is not None for row in rows)
    figures = {"verdicts that a run ten times as long contradicts": Figure(len(wrong), f"of {len(rows)}", better="lower", goal=0)}
    conclude("audited_llm", figures, given, rows, {"any audit was settled": settled > 0}, wrong=wrong)


def make_models(folder: Path) -> None:
    """Write copies of the embedded model with rounded weights, and without its last layer."""
    from safetensors.torch import load_file, save_file

    config = json.loads((MODEL / "config.json").read_text(encoding="utf-8"))
    last = config["num_hidden_layers"] - 1
    for name, bits in (("int8", 8), ("int4", 4), ("int3", 3), ("int2", 2), ("layers", None)):
        shutil.copytree(MODEL, folder / name, dirs_exist_ok=True)
        weights = {key: tensor.float() for key, tensor in load_file(MODEL / "model.safetensors").items()}
        for key, tensor in list(weights.items()):
            if bits and key.endswith("_proj.weight"):
                scale = tensor.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)  # as in speedups/quantisation.py
                weights[key] = (tensor / scale).round() * scale
        if bits is None:
            weights = {key: tensor for key, tensor in weights.items() if f".layers.{last}." not in key}
            (folder / name / "config.json").write_text(json.dumps(config | {"num_hidden_layers": last}), encoding="utf-8")
        save_file(weights, folder / name / "model.safetensors", metadata={"format": "pt"})


def make_run(folder: Path, num_prompts: int, settings: list[str], words: Sequence[str]) -> None:
    """Make an accuracy run, unless it exists."""
    if (folder / "report.json").exists():
        return
    changes = [f"dataset.num_prompts={num_prompts}", f"metrics=[{METRIC}]", "truth.replays=0", *settings]
    suite([*words, "--mode", "accuracy", "--output", str(folder)] + [w for c in changes for w in ("--set", c)], {0, 3})


def judge(few: Path, many: Path, name: str, margin: str) -> dict[str, Any]:
    """The verdict of the audit of few prompts, and whether many prompts confirm it."""
    page = few / f"audit-{slug(name)}.html"
    words = ["--margin", margin, "--metric", METRIC, "--allow-invalid", "--output", str(page)]
    suite(["audit", str(few / "reference"), str(few / slug(name)), *words], {0, 1, 2})
    data = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    metric = data["metrics"][0]
    true = compare_shares(name, scores(many / "reference"), scores(many / slug(name)), float(metric["margin"]))
    ends = true.ci95 or (true.difference, true.difference)
    return {
        "candidate": name,
        "difference": round(metric["difference"], 4),
        "verdict": metric["verdict"],
        "further_samples": metric["further_samples"],
        "all_metrics": data["verdict"],
        "long_difference": round(true.difference, 4),
        "long_ci95": [round(end, 4) for end in ends],
        "long_verdict": verdicts([true]).overall,
        "agrees": {"PASS": true.difference > -true.margin, "FAIL": true.difference < -true.margin}.get(metric["verdict"]),
    }


def scores(folder: Path) -> list[float]:
    """Exact matches by prompt; some tasks have another measure."""
    samples = json.loads((folder / "report.json").read_text(encoding="utf-8"))["samples"]
    return [float(value) for _, value in sorted((s["sample_index"], s["scores"][METRIC]) for s in samples if METRIC in s["scores"])]


if __name__ == "__main__":
    main()
