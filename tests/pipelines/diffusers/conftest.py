"""The text-to-video families, built small with random weights: their options, a pipeline of each, and its clips."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.base import Response
from pipelines.diffusers.t2v import DiffusersT2V
from workloads.records import Query, Sample

CPU = torch.device("cpu")
# of a clip of the tiny Wan
SMALL: dict[str, Any] = {
    "num_frames": 5,
    "height": 32,
    "width": 48,
    "num_inference_steps": 4,
    "guidance_scale": 3.0,
    "max_sequence_length": 16,
}
Folder = Callable[[str], Path]
NAMES = {
    "wan21": "Wan 2.1",
    "wan22": "Wan 2.2",
    "wan22_5b": "Wan 2.2 5B",
    "ltx": "LTX-Video",
    "cogvideox": "CogVideoX",
    "hunyuan": "HunyuanVideo",
    "mochi": "Mochi",
}
# frames, height, width, and the frame rate of a clip
SHAPES = {
    "wan21": (5, 32, 48, 16),
    "wan22": (5, 32, 48, 16),
    "wan22_5b": (5, 32, 64, 24),
    "ltx": (9, 32, 64, 25),
    "cogvideox": (9, 32, 48, 8),
    "hunyuan": (5, 32, 48, 24),
    "mochi": (7, 32, 48, 30),
}
GUIDED: dict[str, dict[str, Any]] = {"hunyuan": {"true_cfg_scale": 3.0, "negative_prompt": "a blue ring"}}


def options(name: str, **others: Any) -> dict[str, Any]:
    frames, height, width, _ = SHAPES[name]
    small = {"num_frames": frames, "height": height, "width": width, "num_inference_steps": 2, "max_sequence_length": 32}
    return {**small, **GUIDED.get(name, {}), **others}


def load(folder: Path, options: dict[str, Any]) -> DiffusersT2V:
    pipeline = DiffusersT2V(model=str(folder), **options)
    pipeline.load(CPU)
    return pipeline


def generate(pipeline: DiffusersT2V, *seeds: int, prompt: str = "a red disc moves slowly to the left") -> Sequence[Response]:
    samples = [Sample(i, prompt) for i in range(len(seeds))]
    return pipeline.generate(samples, [Query(i, i, seed) for i, seed in enumerate(seeds)])


def pixels(response: Response) -> Any:
    assert response.video_THWC is not None
    return response.video_THWC.astype(int)


@pytest.fixture(scope="module")
def loaded(tiny_family: Folder) -> Callable[[str], DiffusersT2V]:
    return functools.cache(lambda name: load(tiny_family(name), options(name)))
