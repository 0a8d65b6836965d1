"""Times of a diffusers pipeline's stages, measured by hooks on its parts.

A stage is the time between two points on one thread; the device is synchronised at each. Denoising lasts from the first call of a
denoiser to the end of the last step.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch


class StageTimer:
    """Measures one batch's stages. `install` adds the hooks to a pipeline, `start` begins a batch, `stages` returns its times."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._spent: dict[str, float] = {}
        self._steps: list[float] = []
        self._began = self._denoise_began = 0.0

    def install(self, pipe: Any) -> None:
        for name in ("text_encoder", "text_encoder_2", "text_encoder_3"):
            if isinstance(encoder := getattr(pipe, name, None), torch.nn.Module):
                encoder.register_forward_pre_hook(self._begin("text_encode"))
                encoder.register_forward_hook(self._end("text_encode"))
        for name in ("transformer", "transformer_2", "unet"):
            if isinstance(denoiser := getattr(pipe, name, None), torch.nn.Module):
                denoiser.register_forward_pre_hook(self._first_denoise)
        if isinstance(encoder := getattr(pipe, "image_encoder", None), torch.nn.Module):
            encoder.register_forward_pre_hook(self._begin("image_encode"))
            encoder.register_forward_hook(self._end("image_encode"))
        if (vae := getattr(pipe, "vae", None)) is not None:
            vae.decode = self._timed("vae_decode", vae.decode)
            vae.encode = self._timed("vae_encode", vae.encode)

    def start(self) -> None:
        self._spent, self._steps, self._denoise_began = {}, [], 0.0
        self._began = self._now()

    def step_end(self, pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        """A diffusers `callback_on_step_end`."""
        self._steps.append(self._now())
        return tensors

    def stages(self) -> tuple[dict[str, float], list[float]]:
        """Seconds by stage, with `other` for the rest of the batch, and seconds of each denoising step."""
        total = self._now() - self._began
        spent = {k: v for k, v in self._spent.items() if not k.startswith("_")}
        if self._steps:
            spent["denoise"] = self._steps[-1] - self._denoise_began
        spent["other"] = max(total - sum(spent.values()), 0.0)
        starts = [self._denoise_began, *self._steps[:-1]]
        return spent, [end - begin for begin, end in zip(starts, self._steps, strict=bool(self._steps))] if self._steps else []

    def _now(self) -> float:
        if self._device.type != "cpu":
            torch.accelerator.synchronize(self._device)
        return time.perf_counter()

    def _begin(self, stage: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            self._spent["_" + stage] = self._now()

        return hook

    def _end(self, stage: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            self._spent[stage] = self._spent.get(stage, 0.0) + self._now() - self._spent["_" + stage]

        return hook

    def _first_denoise(self, *_: object) -> None:
        if not self._denoise_began:
            self._denoise_began = self._now()

    def _timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        begin, end = self._begin(stage), self._end(stage)

        def timed(*args: Any, **kwargs: Any) -> Any:
            begin()
            try:
                return function(*args, **kwargs)
            finally:
                end()

        return timed
