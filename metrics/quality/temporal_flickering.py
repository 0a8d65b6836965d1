"""Temporal flickering: how steady the still parts of a video are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from configs.registry import register
from metrics.base import Run, VideoMetric
from metrics.quality.optical_flow import flows
from workloads.records import Record

STILL_PX = 0.25  # flow below this counts as not moving


@register("temporal_flickering")
@dataclass(frozen=True)
class TemporalFlickering(VideoMetric):
    """1 - mean absolute change of a still pixel from frame to frame, of full scale; 0 to 1, higher is steadier.

    VBench's formula (Huang et al., CVPR 2024, temporal flickering) is for still scenes. Here it is applied to the pixels
    with an optical flow below 0.25 pixels, so that motion does not count as flicker. A video without such pixels, as one of a moving
    camera, or of one frame, has no score.
    """

    name: ClassVar[str] = "temporal_flickering"
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    headings: ClassVar[Mapping[str, tuple[str, ...]]] = {"Quality": ("temporal_",)}

    def score_video(self, run: Run, record: Record, video_THWC: NDArray[np.uint8]) -> float | None:
        changes = []
        for before, after, flow in zip(video_THWC[:-1], video_THWC[1:], flows(run, record), strict=True):
            still = np.linalg.norm(flow, axis=-1) < STILL_PX
            if still.any():
                changes.append(np.abs(after.astype(float) - before)[still].mean() / 255)
        return 1.0 - float(np.mean(changes)) if changes else None
