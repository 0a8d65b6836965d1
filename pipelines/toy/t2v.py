"""A weightless video pipeline: draws what the caption describes, or a drifting pattern for a prompt that is not of the embedded world.

For tests and for plugin authors to read. Its options make answers wrong in known ways.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from configs.registry import register
from pipelines.base import Pipeline, Response
from workloads.records import Query, Sample
from workloads.world.scenes import FPS, NUM_FRAMES, SIZE, parse_caption, render

if TYPE_CHECKING:
    import torch


@register("toy_t2v")
@dataclass
class ToyT2V(Pipeline):
    """seconds: time each video takes. fault: what is wrong with every answer. fail_every: every query of that number fails.
    batch_size: videos drawn together.
    """

    batch_size: int = 1
    seconds: float = 0.0
    fault: Literal["none", "black", "frozen", "noise", "nan", "same"] = "none"
    fail_every: int | None = None

    workloads: ClassVar[tuple[str, ...]] = ("t2v",)

    def load(self, device: torch.device) -> None:
        """There is nothing to load."""

    def generate(self, samples: Sequence[Sample], queries: Sequence[Query]) -> Sequence[Response]:
        began = time.perf_counter()
        time.sleep(self.seconds * len(queries))
        return [self._answer(s, q, began) for s, q in zip(samples, queries, strict=True)]

    def _answer(self, sample: Sample, query: Query, began: float) -> Response:
        if self.fail_every and query.id % self.fail_every == self.fail_every - 1:
            return Response(error=f"toy failure of query {query.id}")
        rng = np.random.default_rng(0 if self.fault == "same" else query.seed)
        video = self._apply_fault(_draw(sample.prompt if self.fault != "same" else "a red disc stays still", rng), rng)
        stages = {"draw": time.perf_counter() - began}
        return Response(video_THWC=video, fps=FPS, stages=stages, num_units=len(video), finite=self.fault != "nan")

    def _apply_fault(self, video: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        if self.fault == "noise":
            return rng.integers(0, 256, video.shape).astype(np.uint8)
        if self.fault == "frozen":
            return np.repeat(video[:1], len(video), axis=0).astype(np.uint8)
        return np.zeros_like(video) if self.fault in ("black", "nan") else video


def _draw(prompt: str, rng: np.random.Generator) -> NDArray[np.uint8]:
    try:
        return render(parse_caption(prompt), rng)
    except ValueError:
        t, y, x = np.mgrid[:NUM_FRAMES, :SIZE, :SIZE] / SIZE
        phase = rng.uniform(0, 2 * np.pi, 3)
        wave = np.sin(2 * np.pi * (x + y)[..., None] + 8 * t[..., None] + phase)
        return np.asarray(np.rint((wave + 1) * 127.5), np.uint8)
