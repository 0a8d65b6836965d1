"""Runs the tests that need a GPU, in a pytest process of its own."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks.gpu.part import Job, Keep, NotRunError

ROOT = Path(__file__).resolve().parents[3]
NUM_WORKERS = 4  # most of a test's time goes into imports
NO_TESTS = 5  # pytest's exit code


def measure(job: Job, keep: Keep) -> None:
    if importlib.util.find_spec("pytest") is None:
        raise NotRunError("pytest is not installed: pip install -e '.[dev]'")
    file = Path(job.folder) / "gpu_tests.xml"
    where = "tests/pipelines/test_gpu.py" if job.shrink else "tests"
    command = [sys.executable, "-m", "pytest", "-m", "gpu", where, "--junitxml", str(file), "-p", "no:cacheprovider"]
    if not job.shrink and importlib.util.find_spec("xdist"):
        command += ["-n", str(NUM_WORKERS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode not in (0, 1) or not file.is_file():
        why = "no tests" if done.returncode == NO_TESTS else " ".join((done.stdout + done.stderr).split())[-300:]
        raise NotRunError(f"pytest ended with {done.returncode}: {why}")
    outcomes = read_outcomes(file)
    keep("passed", sum(o == "passed" for o in outcomes.values()))
    keep("failed", sorted(name for name, o in outcomes.items() if o == "failed"))
    keep("skipped", {name: o.removeprefix("skipped: ") for name, o in outcomes.items() if o.startswith("skipped")})


def summary(figures: Mapping[str, Any]) -> str:
    failed = figures.get("failed", [])
    names = f" ({', '.join(failed)})" if failed else ""
    return f"{figures.get('passed', 0)} passed, {len(failed)} failed{names}, {len(figures.get('skipped', ()))} skipped"


def read_outcomes(file: Path) -> dict[str, str]:
    """Read pytest's JUnit file: passed, failed or `skipped: why`, by test."""
    outcomes = {}
    for case in ElementTree.parse(file).iter("testcase"):
        skipped = case.find("skipped")
        failed = case.find("failure") is not None or case.find("error") is not None
        outcomes[str(case.get("name"))] = "failed" if failed else f"skipped: {skipped.get('message')}" if skipped is not None else "passed"
    return outcomes
