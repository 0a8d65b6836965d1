"""Are the verdicts of audits right? Speed-ups of the embedded video model, audited on few prompts and on ten times as many.

python benchmarks/audits/audited_speedups.py [--short] [--prompts 64] [--margin 10%] [--folder FOLDER]

The reference runs 20 steps in float32 without a cache. `suite.py audit` compares each candidate with it on the world checker's score.
The true difference is then taken from runs of the same settings on ten times as many prompts. PASS is wrong if the loss is more than the
margin, FAIL if it is less; INCONCLUSIVE is never wrong. Candidates marked `short` are audited only, without longer runs: they should
make no difference, or a longer run would cost too much. A candidate whose package is missing is left out with the reason. Runs that exist
in FOLDER are not repeated, so that the benchmark can be interrupted. Prints a table; the last line is JSON. Three hours on one core.
--short: one candidate, the toy pipeline and four prompts, audited only, in a folder of its own.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.audits.quantised_checkpoints import EXPERTS, write_gguf, write_quark
from benchmarks.audits.suite_runs import suite
from benchmarks.outcome import Figure, arguments, conclude
from metrics.statistics.paired import compare_shares, verdicts

ROOT = Path(__file__).resolve().parents[2]
TIMES = 10
REFERENCE = ["pipeline.num_inference_steps=20"]
QUICK = ("load.min_duration_s=0.1", "load.min_query_count=4", "truth.replays=0", "metrics=[world_score]")
TOY = ("--config", "t2v/toy", *(word for setting in QUICK for word in ("--set", setting)))  # of --short


class Candidate(NamedTuple):
    """settings: of the run. ranks: of its launch. short: without a longer run. needs: a package, by the name of its import."""

    settings: tuple[str, ...]
    ranks: int = 1
    short: bool = False
    needs: str | None = None


CACHES_AND_FEWER = {
    "2 steps": "pipeline.num_inference_steps=2",
    "int8 weights": "pipeline.quantisation={name: round, bits: 8}",
    "int2 weights": "pipeline.quantisation={name: round, bits: 2}",
    "first_block, mild": "pipeline.cache={name: first_block, threshold: 0.1}",
    "first_block, strong": "pipeline.cache={name: first_block, threshold: 0.8}",
    "taylorseer, mild": r"pipeline.cache={name: taylorseer, cache_interval: 2, cache_identifiers: ['blocks\.\d+']}",
    "taylorseer, strong": "pipeline.cache={name: taylorseer, cache_interval: 10, disable_cache_before_step: 1, use_lite_mode: true}",
    "mag, mild": "pipeline.cache={name: mag, threshold: 0.06}",
    "mag, strong": "pipeline.cache={name: mag, threshold: 1.0, max_skip_steps: 8, retention_ratio: 0.1}",
    "sea, mild": "pipeline.cache={name: sea, threshold: 0.5}",
    "sea, strong": "pipeline.cache={name: sea, threshold: 4.0, max_consecutive_cached: 0, residual_order: 0}",
    "pyramid_attention_broadcast, mild": "pipeline.cache={name: pyramid_attention_broadcast, cross_attention_block_skip_range: 2}",
    "pyramid_attention_broadcast, strong": "pipeline.cache={name: pyramid_attention_broadcast, spatial_attention_block_skip_range: 6, "
    "cross_attention_block_skip_range: 6, spatial_attention_timestep_skip_range: [-1, 990], "
    "cross_attention_timestep_skip_range: [-1, 990]}",
    "faster, mild": "pipeline.cache={name: faster, is_guidance_distilled: true}",
    "faster, strong": "pipeline.cache={name: faster, is_guidance_distilled: true, spatial_attention_block_skip_range: 6, "
    "spatial_attention_timestep_skip_range: [-1, 840]}",
}
TWO_STEPS = (
    "pipeline.num_inference_steps=2",
    "pipeline.guidance_scale=1.0",
    "pipeline.scheduler={name: UniPCMultistepScheduler, solver_order: 1, disable_corrector: [0, 1]}",
    "pipeline.lora=[{path: embedded, weight_name: high_noise.safetensors}, "
    "{path: embedded, weight_name: low_noise.safetensors, denoiser: transformer_2}]",
)


def candidates(folder: Path) -> dict[str, Candidate]:
    """All candidates. folder: of checkpoints that some need."""
    listed = {name: Candidate((setting,)) for name, setting in CACHES_AND_FEWER.items()}
    for name in ("_native_math", "_native_flash", "flex"):
        listed[f"attention {name}"] = Candidate((f"pipeline.attention={name}",), short=True)
    listed["both passes in one batch"] = Candidate(("pipeline.guidance_batch=true",), short=True)
    listed["compile"] = Candidate(("pipeline.compile=true",), short=True)
    listed["both passes on two ranks"] = Candidate(("parallel.cfg=2",), 2, short=True)
    listed["tokens over three ranks"] = Candidate(("parallel.context=3",), 3, short=True)  # a clip has 45
    listed["VAE over two ranks"] = Candidate(("parallel.cfg=2", "pipeline.vae_split=true", "pipeline.vae_overlap=1"), 2, short=True)
    listed["bfloat16"] = Candidate(("pipeline.dtype=bfloat16",), short=True)
    for storage in ("float8_e4m3fn", "float8_e5m2"):
        listed[f"layerwise {storage}"] = Candidate((f"pipeline.quantisation={{name: layerwise, storage: {storage}}}",), short=True)
    for kind in ("Int8WeightOnlyConfig", "Int8DynamicActivationInt8WeightConfig", "Float8WeightOnlyConfig"):
        setting = f"pipeline.quantisation={{name: torchao, quant_type: {kind}}}"
        listed[f"torchao {kind.removesuffix('Config')}"] = Candidate((setting,), short=True, needs="torchao")
    for kind in ("Q8_0", "Q4_0"):
        files = ", ".join(f"{expert}: {folder / f'{expert}-{kind}.gguf'}" for expert in EXPERTS)
        listed[f"GGUF {kind}"] = Candidate((f"pipeline.quantisation={{name: gguf, files: {{{files}}}}}",), short=True, needs="gguf")
    listed["Quark MXFP4"] = Candidate((f"pipeline.model={folder / 'quark'}",), short=True, needs="quark")
    for name in ("FlowMatchEulerDiscreteScheduler", "DPMSolverMultistepScheduler"):
        listed[name.removesuffix("Scheduler")] = Candidate((f"pipeline.scheduler={name}",), short=True)
    listed["2 steps, distilled LoRA"] = Candidate(TWO_STEPS, needs="peft")
    return listed


def write_checkpoints(folder: Path, selected: Mapping[str, Candidate]) -> None:
    """Write the checkpoints that the candidates read."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind in ("Q8_0", "Q4_0"):
        for expert in EXPERTS if f"GGUF {kind}" in selected else ():
            if not (file := folder / f"{expert}-{kind}.gguf").exists():
                write_gguf(file, expert, kind)
    if "Quark MXFP4" in selected and not (folder / "quark").exists():
        write_quark(folder / "quark")


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--prompts", type=int, default=64, help="of the audits; the runs for comparison have ten times as many")
    parser.add_argument("--margin", default="10%", help="of the reference's world score")
    parser.add_argument("--folder", type=Path, default=ROOT / "outputs/audited_speedups", help="the folder of runs and audits")
    parser.add_argument("--only", nargs="+", default=[], metavar="CANDIDATE", help="only these")
    given = parser.parse_args(argv)
    if given.short:
        with tempfile.TemporaryDirectory(prefix="triptych-audited-") as place:
            given.folder, given.prompts = Path(place), 4
            measure(given, {"frozen": Candidate(("pipeline.fault=frozen",), short=True)}, TOY)
        return
    every = candidates(given.folder.resolve() / "checkpoints")
    if unknown := set(given.only) - set(every):
        parser.error(f"no candidate {', '.join(sorted(unknown))}; known: {', '.join(every)}")
    measure(given, {name: one for name, one in every.items() if name in given.only or not given.only})


def measure(given: argparse.Namespace, selected: Mapping[str, Candidate], words: Sequence[str] = ("--workload", "t2v")) -> None:
    """Make the runs, audit them, and conclude. words: of the command of all runs."""
    folder = given.folder.resolve()
    few, many = (folder / str(num) for num in (given.prompts, TIMES * given.prompts))
    missing = {name: one.needs for name, one in selected.items() if one.needs and importlib.util.find_spec(one.needs) is None}
    for name, package in missing.items():
        print(f"{name}: left out, because the package {package} is missing", flush=True)
    selected = {name: one for name, one in selected.items() if name not in missing}
    write_checkpoints(folder / "checkpoints", selected)
    rows = []
    for name, one in selected.items():
        for place in (few,) if one.short else (few, many):
            only = ["metrics=[world_score]"] if place == many else []
            timed = place == few
            make_run(place / "reference", int(place.name), only, timed, words=words)
            make_run(place / slug(name), int(place.name), [*one.settings, *only], timed, one.ranks, words)
        result = audit(few, name, given.margin)
        rows.append(
            {
                "candidate": name,
                "speed": round(result["speed"], 2),
                "difference": round(result["difference"], 4),
                "verdict": result["verdict"],
                "further_samples": result["further_samples"],
                "all_metrics": result["overall"],
                **({} if one.short else long_run(many, name, result)),
            }
        )
        print_row(rows[-1], first=len(rows) == 1)
    wrong = [row["candidate"] for row in rows if row.get("agrees") is False]
    figures = {"verdicts that a run ten times as long contradicts": Figure(len(wrong), f"of {len(rows)}", better="lower", goal=0)}
    settled = any(row.get("agrees") is not None for row in rows) or all("agrees" not in row for row in rows)
    conclude("audited_speedups", figures, given, rows, {"any audit with a longer run was settled": settled}, wrong=wrong)


def long_run(many: Path, name: str, result: dict[str, Any]) -> dict[str, Any]:
    """The difference of the longer runs, and whether the verdict on the short ones agrees."""
    margin = float(result["margin"])
    true = compare_shares(name, scores(many / "reference"), scores(many / slug(name)), margin)
    ends = true.ci95 or (true.difference, true.difference)
    agrees = {"PASS": true.difference > -margin, "FAIL": true.difference < -margin, "INCONCLUSIVE": None}
    return {
        "long_difference": round(true.difference, 4),
        "long_ci95": [round(end, 4) for end in ends],
        "long_verdict": verdicts([true]).overall,
        "agrees": agrees[result["verdict"]],
    }


def make_run(
    folder: Path, num_prompts: int, settings: list[str], timed: bool, ranks: int = 1, words: Sequence[str] = ("--workload", "t2v")
) -> None:
    """Make a run of every prompt, unless it exists: a performance test if it is timed, else an accuracy test. Of one that was interrupted,
    the first is made again and the second resumed.
    """
    if (folder / "report.json").exists():
        return
    if timed:
        shutil.rmtree(folder, ignore_errors=True)
    if (folder / "records.jsonl").exists():
        command = ["--resume", str(folder)]
    else:
        mode = "performance" if timed else "accuracy"
        steps = REFERENCE if words != TOY else []
        changes = [*steps, f"dataset.num_prompts={num_prompts}", "num_threads=1", "report_videos=0", *settings]
        command = [*words, "--mode", mode, "--output", str(folder)] + [w for c in changes for w in ("--set", c)]
    suite(command, {0, 3}, ranks)  # INVALID: a canary rightly triggers if a candidate's videos are noise


def audit(folder: Path, name: str, margin: str) -> dict[str, Any]:
    """The audit's results on the world score, and its overall verdict."""
    page = folder / f"audit-{slug(name)}.html"
    suite(
        ["audit", str(folder / "reference"), str(folder / slug(name)), "--margin", margin, "--allow-invalid", "--output", str(page)],
        {0, 1, 2},
    )
    whole = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    alone = ["--metric", "world_score", "--output", str(page.with_name(f"{page.stem}-world.html"))]
    suite(["audit", str(folder / "reference"), str(folder / slug(name)), "--margin", margin, "--allow-invalid", *alone], {0, 1, 2})
    data = json.loads(page.with_name(f"{page.stem}-world.json").read_text(encoding="utf-8"))
    world: dict[str, Any] = data["metrics"][0]
    return world | {"overall": whole["verdict"], "speed": (data["speed"]["paired"] or {"value": float("nan")})["value"]}


def scores(folder: Path) -> list[float]:
    """The world checker's scores by prompt."""
    samples = json.loads((folder / "report.json").read_text(encoding="utf-8"))["samples"]
    return [float(v) for _, v in sorted((s["sample_index"], s["scores"]["world_score"]) for s in samples)]


def slug(name: str) -> str:
    return name.replace(", ", "-").replace(" ", "-")


def print_row(row: dict[str, Any], first: bool) -> None:
    if first:
        print(f"{'candidate':38}{'speed':>7}{'few':>8}  {'verdict':28}{'all metrics':14}{'many':>8}  {'95 %':20}{'verdict':14}agrees")
    low, high = row.get("long_ci95", (float("nan"), float("nan")))
    verdict = row["verdict"] + (f", {row['further_samples']} more" if row["verdict"] == "INCONCLUSIVE" else "")
    agrees = {True: "yes", False: "NO", None: "-"}[row.get("agrees")]
    print(
        f"{row['candidate']:38}{row.get('speed', float('nan')):6.2f}x{row['difference']:+8.3f}  {verdict:28}{row['all_metrics']:14}"
        + (f"{row['long_difference']:+8.3f}  {f'[{low:+.3f}, {high:+.3f}]':20}{row['long_verdict']:14}{agrees}" if "agrees" in row else ""),
        flush=True,
    )


if __name__ == "__main__":
    main()
