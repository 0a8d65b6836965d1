"""A weightless language pipeline: answers the world's questions by reading the description. For tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from configs.registry import register
from pipelines.base import Pipeline, Response
from workloads.llm import QUESTIONS
from workloads.records import Query, Sample
from workloads.world import parse_caption

if TYPE_CHECKING:
    import torch


@register("toy_llm")
@dataclass
class ToyLLM(Pipeline):
    """error_rate: share of answers, chosen by the query's seed, that are wrong."""

    batch_size: int = 8
    error_rate: float = 0.0

    workloads: ClassVar[tuple[str, ...]] = ("llm",)

    def load(self, device: torch.device) -> None:
        """There is nothing to load."""

    def generate(self, samples: Sequence[Sample], queries: Sequence[Query]) -> Sequence[Response]:
        return [self._answer(s, q) for s, q in zip(samples, queries, strict=True)]

    def _answer(self, sample: Sample, query: Query) -> Response:
        description, _, question = sample.prompt.partition(". ")
        attribute = next(name for name, words in QUESTIONS.items() if words == question)
        text = str(getattr(parse_caption(description).groups[0], attribute))
        if np.random.default_rng(query.seed).random() < self.error_rate:
            text = "unsure"
        return Response(text=text, num_units=len(text.split()) + 1)
