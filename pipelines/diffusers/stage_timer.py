"""Times of a diffusers pipeline's stages, measured by hooks on its parts.

A stage is the time between two points on one thread. Of a GPU they are events in its queue of work, so that it does not wait for the host
between steps: they are read at the end of the batch, when the device is synchronised. Denoising lasts from the first call of a denoiser to
the end of the last step.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import torch


class Point(Protocol):
    """A point in time; an event of torch.cuda is one."""

    def elapsed_time(self, end: Any) -> float:
        """Milliseconds to a later point, once the device is synchronised."""


class HostPoint:
    """A point on the host's clock. Other devices than GPUs with events are synchronised for it."""

    def __init__(self, device: torch.device) -> None:
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        self._at_s = time.perf_counter()

    def elapsed_time(self, end: HostPoint) -> float:
        return 1e3 * (end._at_s - self._at_s)


def mark(device: torch.device) -> Point:
    """This point of the work on the device."""
    if device.type != "cuda":
        return HostPoint(device)
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event


class StageTimer:
    """Measures one batch's stages. `install` adds the hooks to a pipeline, `start` begins a batch, `stages` returns its times.

    mark: makes a point in time.
    """

    def __init__(self, device: torch.device, mark: Callable[[torch.device], Point] = mark) -> None:
        self._device, self._mark = device, mark
        self._open: dict[str, Point] = {}
        self._spans: list[tuple[str, Point, Point]] = []
        self._steps: list[Point] = []
        self._began: Point | None = None
        self._denoise_began: Point | None = None

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
        self._open, self._spans, self._steps, self._denoise_began = {}, [], [], None
        self._began = self._now()

    def step_end(self, pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        """A diffusers `callback_on_step_end`."""
        self._steps.append(self._now())
        return tensors

    def stages(self) -> tuple[dict[str, float], list[float]]:
        """Seconds by stage, with `other` for the rest of the batch, and seconds of each denoising step."""
        assert self._began is not None
        end = self._now()
        if self._device.type != "cpu":
            torch.accelerator.synchronize(self._device)
        spent: dict[str, float] = {}
        for stage, begun, ended in self._spans:
            spent[stage] = spent.get(stage, 0.0) + begun.elapsed_time(ended) / 1e3
        step_s: list[float] = []
        if self._steps and self._denoise_began is not None:
            starts = [self._denoise_began, *self._steps[:-1]]
            step_s = [begun.elapsed_time(ended) / 1e3 for begun, ended in zip(starts, self._steps, strict=True)]
            spent["denoise"] = sum(step_s)
        spent["other"] = max(self._began.elapsed_time(end) / 1e3 - sum(spent.values()), 0.0)
        return spent, step_s

    def _now(self) -> Point:
        return self._mark(self._device)

    def _begin(self, stage: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            self._open[stage] = self._now()

        return hook

    def _end(self, stage: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            self._spans.append((stage, self._open[stage], self._now()))

        return hook

    def _first_denoise(self, *_: object) -> None:
        if self._denoise_began is None:
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
