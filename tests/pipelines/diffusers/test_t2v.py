"""The diffusers pipeline on a Wan with random weights: the same code that runs one of 14 billion."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from configs.errors import ConfigError
from configs.registry import make
from pipelines.base import Response
from pipelines.diffusers.t2v import DiffusersT2V
from tests.pipelines.diffusers.conftest import CPU, SMALL
from workloads.records import Query, Sample


def load(folder: Path, **options: Any) -> DiffusersT2V:
    pipeline = DiffusersT2V(model=str(folder), **{**SMALL, **options})
    pipeline.load(CPU)
    return pipeline


def generate(pipeline: DiffusersT2V, *seeds: int) -> Sequence[Response]:
    samples = [Sample(i, f"a red disc number {i}") for i in range(len(seeds))]
    return pipeline.generate(samples, [Query(i, i, seed) for i, seed in enumerate(seeds)])


def pixels(response: Response) -> Any:
    assert response.video_THWC is not None
    return response.video_THWC


def test_one_seed_gives_one_video_alone_or_in_a_batch(tiny_wan: Path) -> None:
    pipeline = load(tiny_wan)
    (alone,), (again,) = generate(pipeline, 5), generate(pipeline, 5)
    first, second = generate(pipeline, 5, 6)
    assert pixels(alone).shape == (5, 32, 48, 3)
    assert np.array_equal(pixels(alone), pixels(again))
    assert np.abs(pixels(alone).astype(int) - pixels(first)).max() <= 1  # a batch's sums are rounded in another order
    assert np.abs(pixels(first).astype(int) - pixels(second)).mean() > 1


def test_stages_add_up_and_every_step_is_timed(tiny_wan: Path) -> None:
    (response,) = generate(load(tiny_wan), 1)
    assert set(response.stages) == {"text_encode", "denoise", "vae_decode", "other"}
    assert all(seconds > 0 for seconds in response.stages.values())
    assert len(response.step_s) == 4
    assert sum(response.step_s) == pytest.approx(response.stages["denoise"], rel=1e-6)


def test_each_experts_guidance_scale_changes_the_clip(tiny_wan: Path) -> None:
    plain, high, low = (load(tiny_wan, **o) for o in ({}, {"guidance_scale": 9.0, "guidance_scale_2": 3.0}, {"guidance_scale_2": 9.0}))
    videos = [pixels(generate(p, 1)[0]).astype(int) for p in (plain, high, low)]
    assert np.abs(videos[0] - videos[1]).max() > 0
    assert np.abs(videos[0] - videos[2]).max() > 0


def test_the_negative_prompt_changes_the_clip(tiny_wan: Path) -> None:
    plain, negative = pixels(generate(load(tiny_wan), 1)[0]), pixels(generate(load(tiny_wan, negative_prompt="blue ring"), 1)[0])
    assert not np.array_equal(plain, negative)


@pytest.mark.feature("diffusers_t2v", "VAE tiling and slicing")
def test_effective_settings_are_read_from_the_loaded_pipeline(tiny_wan: Path) -> None:
    pipeline = load(tiny_wan, vae_tiling=True, vae_slicing=True)
    effective = pipeline.effective()
    assert effective["pipeline"] == "WanPipeline"
    assert effective["scheduler"] == "UniPCMultistepScheduler"
    assert (effective["dtype"], effective["experts"], effective["compiled"]) == ("float32", "2", "False")
    assert pipeline.fallbacks() == []


@pytest.mark.feature("diffusers_t2v", "dtype: bfloat16, float16")
def test_the_requested_dtype_is_effective(tiny_wan: Path) -> None:
    pipeline = load(tiny_wan, dtype="bfloat16")
    assert pipeline.effective()["dtype"] == "bfloat16"
    assert pipeline.fallbacks() == []
    assert pixels(generate(pipeline, 1)[0]).std() > 0


def test_a_requested_option_that_is_not_effective_is_a_fallback(tiny_wan: Path) -> None:
    pipeline = load(tiny_wan)
    pipeline.compile, pipeline.dtype = True, "float16"
    assert pipeline.fallbacks() == ["dtype is float32, not float16", "no block of the denoiser is compiled"]


def test_a_clip_with_nan_is_not_finite(tiny_wan: Path) -> None:
    pipeline = load(tiny_wan)
    with torch.no_grad():
        pipeline._pipe.vae.post_quant_conv.bias.fill_(float("nan"))
    assert not generate(pipeline, 1)[0].finite


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"offload": "model"}, "offload 'model' needs an accelerator; this device is a CPU"),
        ({"height": 40}, "height must be a multiple of 16 for .*, got 40"),
        ({"num_frames": 6}, "num_frames must be a multiple of 4, plus 1, for .*, got 6"),
        ({"model": "/no/such/folder"}, "cannot be loaded"),
    ],
)
def test_an_option_that_the_model_does_not_support_is_refused_by_name(tiny_wan: Path, options: dict[str, Any], message: str) -> None:
    pipeline = DiffusersT2V(**{"model": str(tiny_wan), **SMALL, **options})
    with pytest.raises(ConfigError, match=message):
        pipeline.load(CPU)


@pytest.mark.parametrize("name", ["num_frames", "num_inference_steps", "batch_size", "fps"])
def test_a_size_of_zero_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be positive, got 0"):
        make("pipelines", "diffusers_t2v", {name: 0})
