"""Dynamic degree: whether a video has large motion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from configs.registry import register
from metrics.base import Better, Run, VideoMetric
from metrics.quality.optical_flow import flows
from workloads.records import Record


@register("dynamic_degree")
@dataclass(frozen=True)
class DynamicDegree(VideoMetric):
    """Share of videos with large motion, 0 to 1. Neither direction is better: prompts may request stillness.

    A frame pair moves when the mean of its top 5 % of flow exceeds 6 pixels at 256 pixels of the shorter side, scaled in
    proportion; a video is dynamic when 4 of 16 pairs move, scaled in proportion. Thresholds are VBench's (Huang et al.,
    CVPR 2024, dynamic degree); the flow is DIS instead of RAFT. A video of one frame has no score.
    """

    name: ClassVar[str] = "dynamic_degree"
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    better: ClassVar[Better] = "neither"
    headings: ClassVar[Mapping[str, tuple[str, ...]]] = {"Quality": ("dynamic_",)}

    def score_video(self, run: Run, record: Record, video_THWC: NDArray[np.uint8]) -> float | None:
        if len(video_THWC) < 2:
            return None
        threshold = 6.0 * min(video_THWC.shape[1:3]) / 256
        moving = 0
        for flow in flows(run, record):
            pace = np.sort(np.linalg.norm(flow, axis=-1).ravel())
            moving += float(pace[-max(1, int(len(pace) * 0.05)) :].mean()) > threshold
        return float(moving >= max(1, round(4 * len(video_THWC) / 16)))
