"""A weightless vision-language pipeline: answers by reading the frame's pixels. For tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from configs.registry import register
from pipelines.base import Pipeline, Response
from workloads.llm import QUESTIONS
from workloads.records import Query, Sample
from workloads.world_checker import read_clip

if TYPE_CHECKING:
    import torch


@register("toy_vlm")
@dataclass
class ToyVLM(Pipeline):
    """No options but the batch size."""

    batch_size: int = 8

    workloads: ClassVar[tuple[str, ...]] = ("vlm",)

    def load(self, device: torch.device) -> None:
        """There is nothing to load."""

    def generate(self, samples: Sequence[Sample], queries: Sequence[Query]) -> Sequence[Response]:
        import imageio.v3 as iio

        responses = []
        for sample in samples:
            assert sample.image is not None
            frame = iio.imread(sample.image)
            attribute = next(name for name, words in QUESTIONS.items() if words == sample.prompt)
            text = str(getattr(read_clip(np.repeat(frame[None], 4, axis=0))[0], attribute))
            responses.append(Response(text=text, num_units=len(text.split()) + 1))
        return responses
