"""The embedded video model without a cache and with a mild and a strong one: speed-up and loss of quality.

20 steps, as in the audits of docs/audits.md, where the mild setting passes and the strong one fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.gpu.part import Job, Keep
from benchmarks.gpu.suite_runs import FEW, LONGER, SuiteRun, row, run_all

PLAIN, MILD, STRONG = "no cache", "first_block, mild", "first_block, strong"
STEPS = (*LONGER, "pipeline.num_inference_steps=20")
FULL = (
    SuiteRun(PLAIN, "t2v/embedded", "world_score", STEPS),
    SuiteRun(MILD, "t2v/embedded", "world_score", (*STEPS, "pipeline.cache={name: first_block, threshold: 0.1}")),
    SuiteRun(STRONG, "t2v/embedded", "world_score", (*STEPS, "pipeline.cache={name: first_block, threshold: 0.8}")),
)
FEWER = (*FEW, "pipeline.num_inference_steps=5", "metrics=[throughput, world_score]")
SHRUNK = (
    SuiteRun(PLAIN, "t2v/embedded", "world_score", FEWER),
    SuiteRun(STRONG, "t2v/embedded", "world_score", (*FEWER, "pipeline.cache={name: first_block, threshold: 0.8}")),
)


def measure(job: Job, keep: Keep) -> None:
    runs = run_all(SHRUNK if job.shrink else FULL, job, keep)
    plain, *cached = runs
    keep("beside", {name: beside(runs[plain], runs[name]) for name in cached if runs[plain]["ran"] and runs[name]["ran"]})


def summary(figures: Mapping[str, Any]) -> str:
    return "; ".join(row(name, run) for name, run in figures.get("runs", {}).items())


def beside(plain: Mapping[str, Any], cached: Mapping[str, Any]) -> dict[str, Any]:
    """Compare speed and quality of the cached run with those of the plain one."""
    before_s, after_s = (r["headline"].get("videos_per_s") for r in (plain, cached))
    before, after = (r["quality"].get("world_score", {}).get("value") for r in (plain, cached))
    return {
        "cache": cached["effective"].get("cache"),
        "speed_up": after_s / before_s if before_s and after_s else None,
        "world_score": [before, after],
        "world_score_difference": None if before is None or after is None else after - before,
    }
