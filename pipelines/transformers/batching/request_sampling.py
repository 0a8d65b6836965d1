"""Sampling that each request of a continuous batch sets for itself, behind `suite.py serve`.

transformers' own per-request processors, with seeded noise and a smallest number of tokens. Greedy requests pass through them unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
    ContinuousBatchingTemperatureLogitsWarper,
    ContinuousBatchingTopKLogitsWarper,
    ContinuousBatchingTopPLogitsWarper,
)

from pipelines.transformers.batching.base import Request
from pipelines.transformers.seeded_sampling import RequestNoise, place_of

GREEDY = -1  # in place of a seed


def request_processors(vocab_size: int, ends: Sequence[int], always: bool) -> list[ContinuousBatchingLogitsProcessor]:
    """In `generate`'s order. always: also in steps where no request wants them, as captured graphs need."""
    processors: list[tuple[ContinuousBatchingLogitsProcessor, Mapping[str, Any]]] = [
        (_FewestTokens(ends), {"min_new_tokens": 0}),
        (ContinuousBatchingTemperatureLogitsWarper(TemperatureLogitsWarper(1.0)), {"temperature": 1.0}),
        (ContinuousBatchingTopKLogitsWarper(TopKLogitsWarper(vocab_size)), {"top_k": vocab_size}),
        (ContinuousBatchingTopPLogitsWarper(TopPLogitsWarper(1.0)), {"top_p": 1.0}),
        (_OptionalNoise(), {"noise_seed": GREEDY}),
    ]
    return [_WhereWanted(one, neutral, always) for one, neutral in processors]


def request_arguments(request: Request, vocab_size: int) -> dict[str, Any]:
    """What `add_request` gets for these processors."""
    arguments: dict[str, Any] = {"min_new_tokens": request.min_new_tokens, "noise_seed": GREEDY}
    if request.seed is None:
        return arguments
    arguments |= {"noise_seed": request.seed, "temperature": float(request.temperature), "top_p": float(request.top_p or 1.0)}
    return arguments | {"top_k": min(request.top_k or vocab_size, vocab_size)}


class _WhereWanted(ContinuousBatchingLogitsProcessor):
    """Leaves a step as it is where every request has the neutral value: sorting a large vocabulary takes milliseconds on a CPU."""

    def __init__(self, processor: ContinuousBatchingLogitsProcessor, neutral: Mapping[str, Any], always: bool) -> None:
        self._processor, self._always, self._wanted = processor, always, always
        ((self._name, self._neutral),) = neutral.items()
        self.supported_kwargs, self.ignored_kwargs = processor.supported_kwargs, processor.ignored_kwargs

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        self._processor.fill_defaults(int32_tensor)

    def prepare_tensor_args(self, requests_with_new_token: list[Any]) -> torch.Tensor:
        values = (r.state.logit_processor_kwargs.get(self._name, self._neutral) for r in requests_with_new_token)
        self._wanted = self._always or any(value != self._neutral for value in values)
        return self._processor.prepare_tensor_args(requests_with_new_token)

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        return self._processor(scores, tensor_arg) if self._wanted else scores


class _OptionalNoise(RequestNoise):
    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        int32_tensor.fill_(GREEDY)

    def prepare_tensor_args(self, requests_with_new_token: list[Any]) -> torch.Tensor:
        seeds = super().prepare_tensor_args(requests_with_new_token)
        greedy = [r.state.logit_processor_kwargs["noise_seed"] == GREEDY for r in requests_with_new_token]
        return seeds.masked_fill(torch.tensor(greedy, dtype=torch.bool), GREEDY)

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        is_greedy_N1 = tensor_arg[: scores.shape[0], None] == GREEDY
        return torch.where(is_greedy_N1, scores.float(), super().__call__(scores, tensor_arg))


class _FewestTokens(ContinuousBatchingLogitsProcessor):
    """No end token before an answer has min_new_tokens tokens."""

    supported_kwargs = {"min_new_tokens": int}  # noqa: RUF012
    ignored_kwargs = ()

    def __init__(self, ends: Sequence[int]) -> None:
        self._ends = list(ends)

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        int32_tensor.fill_(0)

    def prepare_tensor_args(self, requests_with_new_token: list[Any]) -> torch.Tensor:
        early = [place_of(r.state) < r.state.logit_processor_kwargs["min_new_tokens"] for r in requests_with_new_token]
        return torch.tensor(early, dtype=torch.int32)

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        is_end_V = torch.zeros(scores.shape[-1], dtype=torch.bool, device=scores.device)
        is_end_V[self._ends] = True
        return scores.masked_fill((tensor_arg[: scores.shape[0], None] == 1) & is_end_V, float("-inf"))
