"""Both guidance passes of a denoising step in one batch, for pipelines that make them one after the other, as Wan's does."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from configs.errors import ConfigError

PASSES = ("cond", "uncond")


class GuidanceBatch:
    """Answers the first of a step's two calls with a tensor that is yet to be filled, and makes both passes in the second.

    A pipeline calls its denoiser in cache_context("cond") and then in cache_context("uncond"), and looks at the first answer only when
    it has the second. An answer that were looked at too early holds NaN, which the canaries see. One call reads the weights once for
    both passes; memory for activations doubles.
    """

    def __init__(self, denoiser: Any) -> None:
        if not hasattr(denoiser, "cache_context"):
            raise ConfigError(
                f"pipeline 'diffusers_t2v': a {type(denoiser).__name__} does not tell its guidance passes apart; leave out guidance_batch"
            )
        self.num_batched = 0  # steps so far in which both passes were one call
        self._forward, self._cache_context = denoiser.forward, denoiser.cache_context
        self._out_channels: int = denoiser.config.out_channels
        self._now: str | None = None
        self._first: tuple[torch.Tensor, tuple[Any, ...], dict[str, Any]] | None = None
        denoiser.forward, denoiser.cache_context = self.forward, self.cache_context

    @contextlib.contextmanager
    def cache_context(self, name: str, **kwargs: Any) -> Iterator[None]:
        self._now = name
        try:
            with self._cache_context(PASSES[0] if name in PASSES else name, **kwargs):  # one state for what is one call
                yield
        finally:
            self._now = None

    def forward(self, hidden_states: torch.Tensor, *args: Any, return_dict: bool = True, **kwargs: Any) -> Any:
        if self._now not in PASSES or (self._first is None) != (self._now == PASSES[0]) or return_dict:
            self._first = None
            raise RuntimeError("guidance_batch is on, but this pipeline does not make its two guidance passes one after the other")
        if self._first is None:
            shape = (hidden_states.shape[0], self._out_channels, *hidden_states.shape[2:])
            empty = torch.full(shape, torch.nan, dtype=hidden_states.dtype, device=hidden_states.device)
            self._first = (empty, (hidden_states, *args), kwargs)
            return (empty,)
        empty, first_args, first_kwargs = self._first
        self._first = None
        size = hidden_states.shape[0]
        both = [_joined(one, two, size) for one, two in zip(first_args, (hidden_states, *args), strict=True)]
        named = {name: _joined(first_kwargs[name], value, size) for name, value in kwargs.items()}
        noise = self._forward(*both, return_dict=False, **named)[0]
        empty.copy_(noise[:size])
        self.num_batched += 1
        return (noise[size:],)


def _joined(one: Any, two: Any, size: int) -> Any:
    """Two values of one argument as one: tensors of a batch's size after each other, anything else must be the same."""
    if isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor) and one.ndim and one.shape[0] == size:
        return torch.cat([one, two])
    same = torch.equal(one, two) if isinstance(one, torch.Tensor) else one == two
    if not same:
        raise RuntimeError("guidance_batch is on, but the two passes differ in an argument that is not of a batch")
    return one
