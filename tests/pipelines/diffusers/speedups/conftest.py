"""A tiny Wan with random weights, loaded with options that make it faster, and its clips."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from configs.errors import ConfigError
from configs.registry import make
from pipelines.diffusers.t2v import DiffusersT2V
from tests.pipelines.diffusers.conftest import CPU, SMALL
from workloads.records import Query, Sample

EMBEDDED: dict[str, Any] = {"num_frames": 9, "height": 48}  # over SMALL, as the embedded model's VAE needs it


def load(folder: Path | str, device: torch.device = CPU, **options: Any) -> DiffusersT2V:
    pipeline: DiffusersT2V = make("pipelines", "diffusers_t2v", {"model": str(folder), **SMALL, **options})
    pipeline.load(device)
    return pipeline


def generate(pipeline: DiffusersT2V, count: int = 1) -> Any:
    """Pixels of `count` clips as integers that can be subtracted."""
    samples = [Sample(i, ("a red disc", "two blue rings")[i]) for i in range(count)]
    responses = pipeline.generate(samples, [Query(i, i, i + 1) for i in range(count)])
    return np.array([r.video_THWC for r in responses]).astype(int)


def refusal(call: Callable[[], Any]) -> str:
    """The message of the ConfigError that the call raises."""
    with pytest.raises(ConfigError) as error:
        call()
    return str(error.value)


@pytest.fixture(scope="session")
def plain(tiny_wan: Path) -> Any:
    """Two clips without any speed-up."""
    return generate(load(tiny_wan), 2)
