"""Runs the embedded panels as a user does, with their variant for a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.gpu.part import Job, Keep
from benchmarks.gpu.suite_runs import FEW, LONGER, SuiteRun, row, run_all

FULL = (
    SuiteRun("t2v/embedded", "t2v/embedded", "world_score", LONGER, variant="gpu"),
    SuiteRun("llm/embedded", "llm/embedded", "exact_match", LONGER, variant="gpu"),
    SuiteRun("llm/embedded, CPU", "llm/embedded", "exact_match", LONGER, on_cpu=True),
    SuiteRun("llm/embedded-moe", "llm/embedded-moe", "exact_match", LONGER, variant="gpu"),
    SuiteRun("vlm/embedded", "vlm/embedded", "exact_match", LONGER, variant="gpu"),
)
SHRUNK = (SuiteRun("llm/toy", "llm/toy", "exact_match", FEW),)  # the embedded video model runs in benchmarks/gpu/parts/quality.py


def measure(job: Job, keep: Keep) -> None:
    run_all(SHRUNK if job.shrink else FULL, job, keep)


def summary(figures: Mapping[str, Any]) -> str:
    return "; ".join(row(name, run) for name, run in figures.get("runs", {}).items())
