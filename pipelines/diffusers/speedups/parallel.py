"""A diffusers denoiser on several ranks: each computes a share of its tokens (context), or one of its two guidance passes (cfg).

Shape letters: B batch, C channels, T frames, H height, W width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist

from configs.errors import ConfigError
from pipelines.diffusers.speedups.base import Loaded, SpeedUp
from pipelines.diffusers.speedups.guidance import PASSES, GuidancePasses
from pipelines.distributed.replica import Replica


class Parallel(SpeedUp):
    """What RunConfig's `parallel` requests of a denoiser: context, cfg, or both."""

    option = "parallel"
    entry = "parallel"

    @property
    def requested(self) -> bool:
        settings = self.options.replica.settings
        return settings.context > 1 or settings.cfg > 1

    def apply(self, loaded: Loaded) -> None:
        replica = self.options.replica
        loaded.family.check_parallel(replica.settings.context, replica.settings.cfg)
        for denoiser in loaded.denoisers.values():
            if replica.settings.context > 1:
                split_tokens(denoiser, replica, loaded.family.num_tokens())
            if replica.settings.cfg == 2:
                SplitGuidance(denoiser, replica)

    def effective(self, loaded: Loaded) -> str | None:
        """What splits the denoisers over ranks."""
        parts = []
        configs = [getattr(getattr(d, "_parallel_config", None), "context_parallel_config", None) for d in loaded.denoisers.values()]
        if degrees := {(c.ulysses_degree, c.ring_degree) for c in configs if c is not None}:
            parts += [f"context {u * r} ({'ring' if r > 1 else 'ulysses'})" for u, r in sorted(degrees)]
        if self.options.replica.settings.cfg == 2:
            parts.append("cfg 2")
        return ", ".join(parts) or None


def split_tokens(denoiser: Any, replica: Replica, num_tokens: int | None) -> None:
    """Context parallelism of diffusers: each rank holds a share of the clip's tokens and attends to all of them.

    num_tokens: of one clip, None where not known. Raises ConfigError where they, or the heads, cannot be divided evenly: diffusers can
    divide them unevenly (`ulysses_anything`, `ring_anything`), but gloo's all-gather cannot, so it could not be tested on CPUs.
    """
    from diffusers import ContextParallelConfig
    from diffusers.utils import logging

    settings, name = replica.settings, type(denoiser).__name__
    degree, kind = settings.context, settings.context_kind
    if getattr(denoiser, "_cp_plan", None) is None:
        raise ConfigError(f"parallel.context is {degree}, but diffusers cannot split a {name}. Leave it out.")
    num_heads = getattr(denoiser.config, "num_attention_heads", degree)
    if kind == "ulysses" and num_heads % degree:
        raise ConfigError(f"parallel.context is {degree} (ulysses), but the {name} has {num_heads} heads. Give a divisor of them.")
    if num_tokens is not None and num_tokens % degree:
        raise ConfigError(f"parallel.context is {degree}, but a clip of this size has {num_tokens} tokens. Give a divisor of them.")
    if kind == "ring":
        denoiser.set_attention_backend(_ring_backend(denoiser))
    before = logging.get_verbosity()
    logging.set_verbosity_error()  # it warns that this is experimental, on every rank
    try:
        with _at_least_one_device():
            denoiser.enable_parallelism(config=ContextParallelConfig(**{f"{kind}_degree": degree}, mesh=replica.mesh))
    finally:
        logging.set_verbosity(before)


def _ring_backend(denoiser: Any) -> str:
    """A kernel that also returns the log-sum-exp, by which a ring's parts are added up; torch's default one does not."""
    if denoiser.device.type == "cpu":
        raise ConfigError(
            "parallel.context_kind is 'ring', whose attention returns its log-sum-exp. diffusers has none for a CPU; use ulysses."
        )
    if denoiser.dtype == torch.float32:
        raise ConfigError("parallel.context_kind is 'ring', whose kernel does not support float32. Use bfloat16, float16 or ulysses.")
    return "_native_flash"


@contextlib.contextmanager
def _at_least_one_device() -> Iterator[None]:
    """diffusers 0.42 divides by the number of accelerators, which is 0 on a CPU (modeling_utils.py, _resolve_parallel_config)."""
    count = max(torch.accelerator.device_count(), 1)
    with mock.patch.object(torch.accelerator, "device_count", return_value=count):
        yield


class SplitGuidance(GuidancePasses):
    """Makes one of a step's two guidance passes on this rank, and receives the other from the rank that makes it.

    The rank that makes the second pass returns an empty output from the first call, and computes in the second call. Its peer computes in
    the first call and waits in the second; then they exchange.
    """

    def __init__(self, denoiser: Any, replica: Replica) -> None:
        super().__init__(denoiser, "parallel.cfg is 2")
        assert replica.mesh is not None
        self._group = replica.mesh["cfg"].get_group()
        self._own = PASSES[replica.mesh["cfg"].get_local_rank()]

    def forward(self, hidden_states: torch.Tensor, *args: Any, return_dict: bool = True, **kwargs: Any) -> Any:
        self._check_turn(return_dict)
        if self._now == self._own:
            noise_BCTHW: torch.Tensor = self._denoise(hidden_states, *args, return_dict=False, **kwargs)[0].contiguous()
        else:
            noise_BCTHW = self._empty(hidden_states)
        if self._first is None:
            self._first = noise_BCTHW
            return (noise_BCTHW,)
        both = (self._first, noise_BCTHW)
        self._first = None
        mine = both[PASSES.index(self._own)]
        gathered = [torch.empty_like(mine) for _ in PASSES]
        dist.all_gather(gathered, mine, group=self._group)
        for target, source in zip(both, gathered, strict=True):
            target.copy_(source)
        return (both[1],)
