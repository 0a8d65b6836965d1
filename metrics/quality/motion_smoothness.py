"""Motion smoothness: how well a frame is predicted from its neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from configs.registry import register
from metrics.base import Run, VideoMetric
from metrics.quality.optical_flow import flow, warp
from workloads.records import Record


@register("motion_smoothness")
@dataclass(frozen=True)
class MotionSmoothness(VideoMetric):
    """1 - mean absolute error of each odd frame predicted from the two around it; 0 to 1, higher is smoother.

    VBench's definition (Huang et al., CVPR 2024), with optical flow in place of the interpolation network: both neighbours
    are warped half-way along the flow between them and averaged. Not comparable with VBench's own figures.
    """

    name: ClassVar[str] = "motion_smoothness"
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    headings: ClassVar[Mapping[str, tuple[str, ...]]] = {"Quality": ("motion_",)}

    def score_video(self, run: Run, record: Record, video_THWC: NDArray[np.uint8]) -> float | None:
        errors = []
        for t in range(1, len(video_THWC) - 1, 2):
            before, after = video_THWC[t - 1], video_THWC[t + 1]
            guess = (warp(before, -0.5 * flow(before, after)) + warp(after, -0.5 * flow(after, before))) / 2
            errors.append(np.abs(guess - video_THWC[t]).mean() / 255)
        return 1.0 - float(np.mean(errors)) if errors else None
