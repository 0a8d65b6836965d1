"""Time per stage of an answer: text encoding, denoising, decoding."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from configs.registry import register
from metrics.base import Figure, Metric, Run

SHARE = "an answer's share of its batch"


@register("stages")
@dataclass(frozen=True)
class Stages(Metric):
    """Mean seconds of each stage of an answer: a batch's stage time divided by its size. Lower is better.

    step_mean is the mean denoising step of a batch.
    """

    headings: ClassVar[Mapping[str, tuple[str, ...]]] = {"Speed": ("step_mean",), "Cost": ("stage_",)}

    def compute(self, run: Run) -> Mapping[str, Figure]:
        done = [r for r in run.timed if r.status == "done" and r.stages]
        names = list(dict.fromkeys(name for r in done for name in r.stages))
        n = len(done)
        figures = {
            f"stage_{name}": Figure(math.fsum(r.stages.get(name, 0.0) / r.batch_size for r in done) / n, "s", "lower", n, note=SHARE)
            for name in names
        }
        batches = {(r.rank, r.started_s): r.step_s for r in done}  # every answer of a batch has the same steps
        if steps := [s for step_s in batches.values() for s in step_s]:
            figures["step_mean"] = Figure(math.fsum(steps) / len(steps), "s", "lower", len(steps), note="a batch's step")
        return figures
