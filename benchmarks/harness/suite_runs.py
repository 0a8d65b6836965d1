"""Runs of suite.py for benchmarks: each a process of its own with one thread a rank, so that one rank does not use two cores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
TWO_RANKS = [str(Path(sys.executable).with_name("accelerate")), "launch", "--config_file", str(ROOT / "configs/accelerate/cpu_2.yaml")]


class SuiteRun(NamedTuple):
    """report: the content of report.json. lines: what the run printed, each with the seconds since its start."""

    report: dict[str, Any]
    lines: list[tuple[float, str]]

    def figure(self, name: str) -> float:
        return float(self.report["figures"][name]["value"])

    def said(self, words: str) -> float:
        """When the first line with these words was printed, in seconds since the start."""
        return next(seconds for seconds, line in self.lines if words in line)


def run(settings: Sequence[str], num_ranks: int = 1) -> SuiteRun:
    """Raises RuntimeError, with what the run printed, where it wrote no report."""
    launcher = [*TWO_RANKS, "--main_process_port", "0", "--num_processes", str(num_ranks)] if num_ranks > 1 else [sys.executable]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory(prefix="triptych-bench-") as place:
        folder = Path(place) / "run"
        command = [*launcher, str(ROOT / "suite.py"), *settings, "--output", str(folder)]
        began = time.monotonic()
        process = subprocess.Popen(command, cwd=place, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1)
        assert process.stdout
        lines = [(time.monotonic() - began, line) for line in process.stdout]
        process.wait()
        path = folder / "report.json"
        if not path.exists():
            raise RuntimeError(f"{' '.join(command)}:\n{''.join(line for _, line in lines)}")
        return SuiteRun(json.loads(path.read_text(encoding="utf-8")), lines)


def changes(*settings: str) -> list[str]:
    """As `--set` options."""
    return [word for setting in settings for word in ("--set", setting)]
