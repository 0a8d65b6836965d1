"""A weightless image-to-video pipeline: shifts the given image, with wrap-around, in the direction that the caption names.

For tests, and to try the suite out. On simple captions of the embedded world, whose ground is plain, that is the right answer. The seed
adds grain, too faint to see, to all frames but the first.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from configs.registry import register
from pipelines.base import Pipeline, Response
from workloads.readers.image_file import read_image
from workloads.records import Query, Sample
from workloads.world.scenes import DIRECTIONS, FPS, NUM_FRAMES, SPEEDS, parse_caption

if TYPE_CHECKING:
    import torch

GRAIN = 2  # of 255


@register("toy_i2v")
@dataclass
class ToyI2V(Pipeline):
    """seconds: time each video takes. fault: `frozen` never moves, `other_image` begins with another image than the given one.
    batch_size: videos drawn together.
    """

    batch_size: int = 1
    seconds: float = 0.0
    fault: Literal["none", "frozen", "other_image"] = "none"

    workloads: ClassVar[tuple[str, ...]] = ("i2v",)

    def load(self, device: torch.device) -> None:
        """There is nothing to load."""

    def generate(self, samples: Sequence[Sample], queries: Sequence[Query]) -> Sequence[Response]:
        began = time.perf_counter()
        time.sleep(self.seconds * len(queries))
        return [self._answer(s, q, began) for s, q in zip(samples, queries, strict=True)]

    def _answer(self, sample: Sample, query: Query, began: float) -> Response:
        try:
            image_HWC = read_image(sample.images[0])
        except ValueError as error:
            return Response(error=str(error))
        if self.fault == "other_image":
            image_HWC = 255 - image_HWC
        step = (0.0, 0.0) if self.fault == "frozen" else _step(sample.prompt)
        video = np.stack([np.roll(image_HWC, (round(step[1] * t), round(step[0] * t)), axis=(0, 1)) for t in range(NUM_FRAMES)])
        if self.fault != "frozen":
            grain = np.random.default_rng(query.seed).integers(-GRAIN, GRAIN + 1, video[1:].shape)
            video[1:] = np.clip(video[1:] + grain, 0, 255)
        return Response(video_THWC=video, fps=FPS, stages={"draw": time.perf_counter() - began}, num_units=len(video))


def _step(prompt: str) -> tuple[float, float]:
    """Pixels a frame, x and y: those of the caption's first group; one to the right where the prompt is not a caption."""
    try:
        group = parse_caption(prompt).groups[0]
    except ValueError:
        return 1.0, 0.0
    x, y = DIRECTIONS[group.direction]
    return x * SPEEDS[group.speed], y * SPEEDS[group.speed]
