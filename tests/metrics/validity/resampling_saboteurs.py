"""A plugin file of pipelines that make fewer frames or pixels than they deliver. Where `sabotage` is false they make all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from configs.registry import register
from pipelines.base import Response
from pipelines.toy.t2v import ToyT2V
from workloads.records import Query, Sample

Video = NDArray[np.uint8]
Way = Literal["nearest", "linear", "cubic"]


@dataclass
class Resampler(ToyT2V):
    """Draws every video, and passes on what `_fake` makes of a part of it."""

    sabotage: bool = True

    def generate(self, samples: Sequence[Sample], queries: Sequence[Query]) -> Sequence[Response]:
        drawn = super().generate(samples, queries)
        if not self.sabotage:
            return drawn
        return [msgspec.structs.replace(r, video_THWC=self._fake(r.video_THWC)) for r in drawn if r.video_THWC is not None]

    def _fake(self, video_THWC: Video) -> Video:
        raise NotImplementedError


@register("repeats_frames")
@dataclass
class RepeatsFrames(Resampler):
    """Every frame stands for `times` frames."""

    times: int = 2

    def _fake(self, video_THWC: Video) -> Video:
        return repeat(video_THWC, self.times)


@register("interpolates_frames")
@dataclass
class InterpolatesFrames(Resampler):
    """Every second frame is the mean of its neighbours."""

    def _fake(self, video_THWC: Video) -> Video:
        return interpolate(video_THWC)


@register("upscales_frames")
@dataclass
class UpscalesFrames(Resampler):
    """Frames of 1 / `factor` of the size are enlarged."""

    way: Way = "nearest"
    factor: int = 2

    def _fake(self, video_THWC: Video) -> Video:
        return enlarge(video_THWC, self.factor, self.way)


def repeat(video_THWC: Video, times: int) -> Video:
    return video_THWC[np.arange(len(video_THWC)) // times * times]


def interpolate(video_THWC: Video) -> Video:
    made = video_THWC.copy()
    inner = made[1:-1:2]
    inner[:] = np.rint((made[0:-2:2].astype(float) + made[2::2]) / 2)[: len(inner)]
    return made


def enlarge(video_THWC: Video, factor: float, way: Way) -> Video:
    import cv2

    height, width = video_THWC.shape[1:3]
    size = (round(width / factor), round(height / factor))
    how = {"nearest": cv2.INTER_NEAREST, "linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC}[way]
    small = [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in video_THWC]
    return np.asarray(np.stack([cv2.resize(frame, (width, height), interpolation=how) for frame in small]), np.uint8)
