"""Sampling that depends only on a query's seed and the place in its answer, not on the rest of the batch.

The Gumbel-max trick: the argmax of log-probabilities plus Gumbel noise is a sample of the distribution. The noise is a
hash of (query seed, place, token), so answers are the same one at a time, in static batches and in continuous ones.
Source of the trick: Maddison, Tarlow and Minka, A* Sampling, 2014. Hash: MurmurHash3's 32-bit finaliser.

Shape letters: N rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import LogitsProcessor, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessor

from workloads.records import query_seed

_MASK = 2**32 - 1


def gumbel_noise(seeds_N: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """Gumbel noise_NV, float32, from one seed a row."""
    token_V = torch.arange(vocab_size, dtype=torch.int64, device=seeds_N.device)
    x_NV = ((seeds_N.to(torch.int64) & _MASK)[:, None] * 0x9E3779B1 + token_V * 0x85EBCA77) & _MASK
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x_NV = ((x_NV ^ (x_NV >> shift)) * factor) & _MASK
    uniform_NV = ((x_NV ^ (x_NV >> 16)).double() + 0.5) / 2**32
    return -torch.log(-torch.log(uniform_NV)).float()


def place_seed(seed: int, place: int) -> int:
    """The seed of an answer's token number `place`, 31 bits."""
    return query_seed(seed, place) & 0x7FFFFFFF


def warpers(temperature: float | None, top_k: int | None, top_p: float | None) -> list[LogitsProcessor]:
    """transformers' own processors for these settings, in `generate`'s order; None leaves one out."""
    processors: list[LogitsProcessor] = []
    if temperature is not None and temperature != 1.0:
        processors.append(TemperatureLogitsWarper(temperature))
    if top_k:
        processors.append(TopKLogitsWarper(top_k))
    if top_p is not None and top_p < 1.0:
        processors.append(TopPLogitsWarper(top_p))
    return processors


class BatchNoise(LogitsProcessor):
    """For `generate`: row i of the batch answers the query with seeds[i]; prompt_length is that of the padded prompts."""

    def __init__(self, seeds: Sequence[int], prompt_length: int) -> None:
        self._seeds, self._prompt_length = seeds, prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        place = input_ids.shape[1] - self._prompt_length
        seeds_N = torch.tensor([place_seed(seed, place) for seed in self._seeds], device=scores.device)
        return scores.log_softmax(-1) + gumbel_noise(seeds_N, scores.shape[-1])


class RequestNoise(ContinuousBatchingLogitsProcessor):
    """For continuous batching: each request has its seed as `noise_seed`."""

    supported_kwargs = {"noise_seed": int}  # noqa: RUF012
    ignored_kwargs = ()

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        int32_tensor.fill_(0)

    def prepare_tensor_args(self, requests_with_new_token: list[Any]) -> torch.Tensor:
        seeds = [place_seed(r.state.logit_processor_kwargs["noise_seed"], place_of(r.state)) for r in requests_with_new_token]
        return torch.tensor(seeds, dtype=torch.int32)

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        return scores.log_softmax(-1) + gumbel_noise(tensor_arg[: scores.shape[0]], scores.shape[-1])


def place_of(state: Any) -> int:
    """The place in its answer of the token that this step gives; read while the step is prepared.

    Not the number of tokens so far: with asynchronous batching the one before it is still being computed. transformers counts tokens from
    before an eviction as part of the prompt.
    """
    return int(state.position_offset) - (state._true_initial_tokens or len(state.initial_tokens))
