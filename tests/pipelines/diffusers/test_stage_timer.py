"""Times of stages from points that are read after the batch, as a GPU's events are."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipelines.diffusers.stage_timer import StageTimer


class Event:
    """Known only once the batch has ended, like an event of a device."""

    ended = False

    def __init__(self, at_ms: float) -> None:
        self._at_ms = at_ms

    def elapsed_time(self, end: Event) -> float:
        assert Event.ended
        return end._at_ms - self._at_ms


def test_stages_are_read_from_events_after_the_batch_and_add_up() -> None:
    ticks = itertools.count(step=1000)  # one second passes between two points
    timer = StageTimer(torch.device("cpu"), mark=lambda _: Event(next(ticks)))
    encoder, denoiser = torch.nn.Identity(), torch.nn.Identity()
    vae: Any = SimpleNamespace(decode=lambda z: z, encode=lambda x: x)
    timer.install(SimpleNamespace(text_encoder=encoder, transformer=denoiser, vae=vae))
    timer.start()
    for _ in range(2):
        encoder(torch.zeros(1))
    for step in range(3):
        denoiser(torch.zeros(1))
        timer.step_end(None, step, None, {})
    vae.decode(torch.zeros(1))
    Event.ended = True
    stages, step_s = timer.stages()
    assert stages == {"text_encode": 2.0, "denoise": 3.0, "vae_decode": 1.0, "other": 5.0}
    assert (step_s, sum(stages.values())) == ([1.0, 1.0, 1.0], 11.0)


@pytest.mark.gpu
def test_events_of_a_gpu_measure_what_runs_on_it() -> None:
    device = torch.device("cuda")
    timer, layer = StageTimer(device), torch.nn.Linear(4096, 4096, device=device)
    timer.install(SimpleNamespace(text_encoder=layer))
    for _ in range(2):  # the first loads kernels
        timer.start()
        for _ in range(50):
            layer(torch.zeros(4096, 4096, device=device))
        stages, _ = timer.stages()
    assert stages["text_encode"] > 50 * 2 * 4096**3 / 1e16  # faster than 10 PFLOP/s it cannot be
