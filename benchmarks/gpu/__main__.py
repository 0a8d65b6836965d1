"""python -m benchmarks.gpu [--output FILE] [--budget SECONDS] [--only PART,PART] [--shrink]; benchmarks/gpu.sh runs it."""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.gpu.conduct import Proof, ask_device, conduct, describe
from benchmarks.gpu.goals import judge
from benchmarks.gpu.part import PARTS, Part
from benchmarks.outcome import RESULTS
from configs.errors import ConfigError, unknown

ROOT = Path(__file__).resolve().parents[2]
INTERRUPTED = 130


def main() -> int:
    """Exit codes: 0 every part ran and nothing failed, 3 otherwise, 1 nothing could be run, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="benchmarks/gpu.sh", description="Measurements that need a GPU, in one JSON file.")
    parser.add_argument("--output", type=Path, help="the file to write; benchmarks/results/gpu-DEVICE.json if not given")
    parser.add_argument("--budget", type=float, default=660.0, metavar="SECONDS", help="of all parts together")
    parser.add_argument("--only", default="", metavar="PART,PART", help=f"only these parts: {', '.join(p.name for p in PARTS)}")
    parser.add_argument("--shrink", action="store_true", help="tiny shapes, on a CPU too: tries the code out, measures nothing")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        named = tuple(name for name in given.only.split(",") if name)
        parts = select(named)
        proof = Proof(given.budget, given.shrink)
        with tempfile.TemporaryDirectory(prefix="triptych-gpu-", ignore_cleanup_errors=True) as folder:
            ended = ask_device(proof, Path(folder))
            if not ended.ran:
                raise ConfigError(f"the device could not be identified: {ended.why}")
            if proof.device["accelerator"] is None and not given.shrink:
                raise ConfigError("PyTorch finds no GPU. Use --shrink to try the parts out on a CPU, without measuring anything.")
            proof.output = given.output or default_output(proof)
            proof.keep_earlier()
            conduct(proof, parts, named, Path(folder))
    except ConfigError as error:
        print(f"gpu: {error}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:  # before the first part
        return INTERRUPTED
    print_table(proof, parts)
    print_goals(proof)
    result = conclusion(proof, parts)
    print(json.dumps(result), flush=True)
    return INTERRUPTED if proof.interrupted else 0 if result["holds"] else 3


def select(named: tuple[str, ...]) -> list[Part]:
    """The named parts, in the order of PARTS. Raises ConfigError for an unknown name."""
    known = [part.name for part in PARTS]
    for name in named:
        if name not in known:
            raise ConfigError(f"--only: {unknown('part', name, known)}")
    return [part for part in PARTS if not named or part.name in named]


def default_output(proof: Proof) -> Path:
    """The file of results of this device; a rehearsal is not a result."""
    name = re.sub(r"[^a-z0-9]+", "-", proof.device["name"].lower()).strip("-")
    return ROOT / "outputs" / "gpu-rehearsal.json" if proof.shrink else RESULTS / f"gpu-{name}.json"


def print_table(proof: Proof, parts: list[Part]) -> None:
    print(f"{proof.device['name']}{', shrunk: these figures measure nothing' if proof.shrink else ''}")
    for part in parts:
        entry = proof.parts[part.name]
        print(f"{part.name:13} {'ran' if entry.ran else 'NOT RUN':8} {entry.seconds:6.1f} s  {describe(part, entry)}")


def print_goals(proof: Proof) -> None:
    """Which goals hold, over all parts in the file."""
    for goal in judge(proof.device["name"], proof.figures()):
        bound = f">= {goal['at_least']:g}" if goal["at_least"] is not None else f"<= {goal['at_most']:g}"
        verdict = {None: "not measured", True: "holds", False: "MISSED"}[goal["holds"]]
        print(f"{verdict:13} {goal['goal']} {bound}: {'-' if goal['value'] is None else format(goal['value'], '.4g')}")


def conclusion(proof: Proof, parts: list[Part]) -> dict[str, Any]:
    """The last line, in the form of the other benchmarks. holds: every part ran, no test failed, every panel is VALID."""
    ran = sum(proof.parts[part.name].ran for part in parts)
    figures = {name: entry.figures for name, entry in proof.parts.items()}
    failed = figures.get("tests", {}).get("failed", [])
    panels = {name: run.get("verdict", "not run") for name, run in figures.get("panels", {}).get("runs", {}).items()}
    holds = ran == len(parts) and not failed and all(verdict == "VALID" for verdict in panels.values())
    more = {
        "device": proof.device["name"],
        "shrunk": proof.shrink,
        "failed_tests": failed,
        "panels": panels,
        "headline": headline(figures),
        "file": str(proof.output),
    }
    return {"name": "gpu", "value": ran, "unit": "parts that ran", "goal": len(parts), "holds": holds, **more}


def headline(figures: dict[str, dict[str, Any]]) -> dict[str, float | None]:
    def at(*path: str) -> Any:
        value: Any = figures
        for name in path:
            value = value.get(name, {})
        return value or None

    return {
        "bf16_tflops": at("ceilings", "products", "bf16", "tflops"),
        "memory_gb_s": at("ceilings", "memory", "best_gb_s"),
        "denoiser_mfu": at("wan", "stages", "denoiser", "mfu"),
        "prefill_mfu": next((p.get("mfu") for p in (at("llama", "prefill") or {}).values()), None),
        "decode_bandwidth_use": next((d.get("bandwidth_use") for d in (at("llama", "decode_graph") or {}).values()), None),
        "continuous_tokens_per_s": at("engines", "engines", "continuous", "tokens_per_s"),
    }


if __name__ == "__main__":
    sys.exit(main())
