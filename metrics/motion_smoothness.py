"""Whether each frame lies where its neighbours' motion puts it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from configs.registry import register
from metrics.base import Run, SampleMetric
from metrics.optical_flow import flow, warp
from workloads.records import Record, Sample


@register("motion_smoothness")
@dataclass(frozen=True)
class MotionSmoothness(SampleMetric):
    """1 - mean absolute error of each odd frame predicted from the two around it; 0 to 1, higher is smoother.

    VBench's definition (Huang et al., CVPR 2024) with the interpolation network replaced by optical flow: both
    neighbours are moved half-way along the flow between them and averaged. Not comparable with VBench's own figures.
    """

    name: ClassVar[str] = "motion_smoothness"

    def score(self, run: Run, sample: Sample, record: Record) -> Mapping[str, float]:
        if record.media is None:
            return {}
        video = run.video(record)
        if len(video) < 3:
            return {}
        errors = []
        for t in range(1, len(video) - 1, 2):
            before, after = video[t - 1], video[t + 1]
            guess = (warp(before, -0.5 * flow(before, after)) + warp(after, -0.5 * flow(after, before))) / 2
            errors.append(np.abs(guess - video[t]).mean() / 255)
        return {self.name: 1.0 - float(np.mean(errors))}
