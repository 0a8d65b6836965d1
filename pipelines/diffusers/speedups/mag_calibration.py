"""Calibration of MagCache: how much each denoiser's residual grows from step to step, measured in one clip."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from pipelines.diffusers.speedups.base import hooks_of

PROMPT, SEED = "a red disc moves to the right", 0


def measure_ratios(denoisers: Mapping[str, Any], generate_one: Callable[[str, int], None]) -> list[list[float]]:
    """The ratios of each denoiser, mean over its guidance passes. generate_one(prompt, seed): makes a clip."""
    from diffusers.hooks import MagCacheConfig
    from diffusers.hooks.mag_cache import MagCacheHeadHook

    measured: list[dict[str, list[float]]] = []
    hooks = []
    for denoiser in denoisers.values():
        denoiser.enable_cache(MagCacheConfig(calibrate=True, num_inference_steps=sys.maxsize))
        head = next(h for m in denoiser.modules() for h in hooks_of(m).values() if isinstance(h, MagCacheHeadHook))
        measured.append({})
        hooks.append(denoiser.register_forward_hook(_ratios_keeper(head.state_manager._state_cache, measured[-1])))
    generate_one(PROMPT, SEED)
    for hook, denoiser in zip(hooks, denoisers.values(), strict=True):
        hook.remove()
        denoiser.disable_cache()
    means = [[round(sum(passes) / len(passes), 4) for passes in zip(*each.values(), strict=True)] for each in measured]
    return [each or [1.0] for each in means]


def _ratios_keeper(states: Mapping[str, Any], kept: dict[str, list[float]]) -> Callable[..., None]:
    def keep(*_: Any) -> None:  # the states are gone when the pipeline's call returns
        kept.update({name: state.calibration_ratios for name, state in states.items()})

    return keep
