"""Speed-ups of each denoiser cache of the suite, in a mild setting.

Weights are random, so the hit rate of a cache means nothing for a trained model; the share of the work that was computed is reported with
every speed-up. The cost in quality is measured with the embedded model: benchmarks/gpu/parts/quality.py and docs/audits.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from benchmarks.gpu import denoising
from benchmarks.gpu.part import Job, Keep, not_run

STEPS = 12
LEAST_S = 8.0  # that must be left to start another cache
# Settings that skip about half at most; `mag` measures its ratios in one more answer.
MILD: dict[str, dict[str, Any]] = {
    "first_block": {"threshold": 0.1},
    "taylorseer": {"cache_interval": 2, "disable_cache_before_step": 2, "cache_identifiers": [r"blocks\.\d+"]},
    "mag": {"threshold": 0.06},
    "sea": {"threshold": 0.5},
    "pyramid_attention_broadcast": {"cross_attention_block_skip_range": 2},
    "faster": {"is_guidance_distilled": True},
}


def measure(job: Job, keep: Keep) -> None:
    denoiser = denoising.Denoiser(job, STEPS)
    rows: dict[str, Any] = {"none": denoiser.row("cache") | {"work_done": 1.0}}
    keep("caches", rows)
    keep("random_weights", "hit rates mean nothing here; work_done is the share of the linear layers' multiply-adds that was computed")
    for name, options in MILD.items():
        if job.left_s < (0.5 if job.shrink else LEAST_S):
            rows[name] = not_run("no time was left")
        else:
            rows[name] = denoiser.row("cache", warm=False, cache={"name": name, **options})  # the baseline has loaded the kernels
            if rows[name]["ran"]:
                rows[name]["work_done"] = work_done(rows[name]["cache"])
        keep("caches", rows)


def summary(figures: Mapping[str, Any]) -> str:
    rows = figures.get("caches", {})
    return ", ".join(
        f"{name} {row['speed_up']:.2f}x ({row['work_done']:.0%} done)" if row["ran"] else f"{name} not run" for name, row in rows.items()
    )


def work_done(effective: str) -> float:
    """Read the share of the work from the effective setting: `..; 25% of the last batch's work skipped (..)`."""
    match = re.search(r"(\d+)% of the last batch's work skipped", effective)
    assert match is not None
    return round(1 - int(match[1]) / 100, 2)
