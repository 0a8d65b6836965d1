"""Runs suite.py as a user does, each in a process of its own, and reads their folders."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.gpu.part import Job, Keep, not_run

ROOT = Path(__file__).resolve().parents[2]
EXIT_CODES = (0, 3)  # VALID, INVALID
LEAST_S = 15.0  # that must be left to start another run
LONGER = ("load.min_duration_s=3",)  # the presets' 10 s are for CPUs
FEW = (
    "load.min_duration_s=0.1",
    "load.min_query_count=2",
    "dataset.num_prompts=2",
    "truth.replays=1",
    "warmup_batches=1",
    "report_videos=0",
    "num_threads=1",
)


class SuiteRun(NamedTuple):
    """quality: the figure of quality. settings: changes to the preset. on_cpu: hide the GPU. variant: of the preset."""

    name: str
    preset: str
    quality: str
    settings: Sequence[str] = ()
    on_cpu: bool = False
    variant: str | None = None


def run_all(runs: Sequence[SuiteRun], job: Job, keep: Keep) -> dict[str, Any]:
    """Make the runs; they are kept as `runs` after each of them."""
    results: dict[str, Any] = {}
    for one in runs:
        folder = Path(tempfile.mkdtemp(prefix="run-", dir=job.folder)) / one.preset.replace("/", "-")  # parts share job.folder
        results[one.name] = run(one, folder) if job.left_s > (1.0 if job.shrink else LEAST_S) else not_run("no time was left")
        keep("runs", results)
    return results


def run(one: SuiteRun, folder: Path) -> dict[str, Any]:
    words = [word for change in one.settings for word in ("--set", change)]
    command = [sys.executable, "suite.py", "--config", one.preset, "--output", str(folder), *words]
    command += ["--variant", one.variant] if one.variant else []
    env = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")}
    if one.on_cpu:
        env |= dict.fromkeys(("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"), "-1")
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    if done.returncode not in EXIT_CODES:
        return not_run(f"suite.py ended with {done.returncode}: {(done.stderr.strip().splitlines() or ['no error message'])[-1]}")
    return read_run(folder, one.quality, json.loads(done.stdout.strip().splitlines()[-1]))


def read_run(folder: Path, quality: str, line: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a run folder. line: the run's last line on stdout."""
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    system = json.loads((folder / "system.json").read_text(encoding="utf-8"))
    figures = report["figures"]
    energy = {name: _figure(figures[name]) for name in figures if name.startswith("energy_") or name == "mean_power"}
    return {
        "ran": True,
        "verdict": report["verdict"],
        "reasons": report["reasons"],
        "headline": line["headline"],
        "quality": {quality: _figure(figures[quality])} if quality in figures else {},
        "device": report["device"],
        "accelerators": [a["name"] for a in system["accelerators"]],
        "effective": report["effective"],
        "energy": energy or not_run("no rank's device has an energy meter"),
    }


def row(name: str, run: Mapping[str, Any]) -> str:
    if not run["ran"]:
        return f"{name} not run"
    scores = [f"{quality} {f['value']:.2f}" for quality, f in run["quality"].items() if f["value"] is not None]
    speed = next((f"{value:.4g} {key}" for key, value in run["headline"].items() if key.endswith("_per_s")), "")
    return f"{name} {run['verdict']} {speed} {' '.join(scores)}".strip()


def _figure(figure: Mapping[str, Any]) -> dict[str, Any]:
    return {name: figure[name] for name in ("value", "unit", "n", "ci95", "note")}
