"""An engine that answers immediately and computes nothing, so that only the suite itself is measured. For benchmarks/rate.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from configs.registry import register
from pipelines.base import Event, Response, StreamingPipeline
from workloads.records import Query, Sample

if TYPE_CHECKING:
    import torch


@register("null_llm")
@dataclass
class NullLLM(StreamingPipeline):
    """num_tokens: the reported length of every answer."""

    batch_size: int = 64
    num_tokens: int = 294

    workloads: ClassVar[tuple[str, ...]] = ("llm",)

    _queue: list[int] = field(default_factory=list, init=False, repr=False)

    def load(self, device: torch.device) -> None:
        self._response = Response(text="", num_units=self.num_tokens, num_input_tokens=1, finish_reason="stop")

    def submit(self, samples: Sequence[Sample], queries: Sequence[Query]) -> None:
        self._queue += [query.id for query in queries]

    def step(self, timeout_s: float) -> Sequence[Event]:
        ids, self._queue = self._queue, []
        return [Event(i, 1) for i in ids] + [Event(i, response=self._response) for i in ids]

    def generate(self, samples: Sequence[Sample], queries: Sequence[Query]) -> Sequence[Response]:
        return [self._response] * len(queries)
