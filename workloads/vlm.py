"""Vision and language: a frame of the embedded world and a question about it, answered in a word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from configs.registry import register
from workloads.base import Workload
from workloads.llm import draw
from workloads.records import Sample
from workloads.world import Scene, render


@register("vlm")
@dataclass(frozen=True)
class VisionLanguage(Workload):
    """`num_prompts` frames, PNG-encoded, each with a question whose answer is one word of the scene."""

    num_prompts: int = 64

    unit: ClassVar[str] = "tokens"
    noun: ClassVar[str] = "answers"
    default_pipeline: ClassVar[str] = "toy_vlm"
    default_metrics: ClassVar[tuple[str, ...]] = ("throughput", "latency", "peak_memory", "exact_match")

    def samples(self) -> Sequence[Sample]:
        import imageio.v3 as iio

        samples: list[Sample] = []
        for i, (group, _, question, answer) in enumerate(draw(4 * self.num_prompts)):
            if answer != group.direction and len(samples) < self.num_prompts:  # one frame shows no motion
                frame = render(Scene((group,)), np.random.default_rng(i))[0]
                png = iio.imwrite("<bytes>", frame, extension=".png")
                samples.append(Sample(len(samples), question, {"answer": answer}, png))
        return samples
