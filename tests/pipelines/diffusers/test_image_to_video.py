"""Image to video by diffusers' families with random weights, and by the embedded Wan with its first frame held."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from configs.errors import ConfigError
from configs.registry import make
from metrics.similarity.video import psnr
from pipelines.base import Response
from pipelines.diffusers.t2v import DiffusersT2V
from tests.conftest import QUICK, SuiteRun, last_line, read_report
from tests.pipelines.diffusers.tiny_families import IMAGE_TO_VIDEO
from workloads.i2v import ImageToVideo
from workloads.readers.image_file import read_image
from workloads.records import Query, Sample, query_seed
from workloads.vlm import encode_png

CPU = torch.device("cpu")
Folder = Callable[[str], Path]
NAMES = {
    "wan21_i2v": "Wan 2.1",
    "wan22_i2v": "Wan 2.2",
    "wan22_5b_i2v": "Wan 2.2 5B",
    "ltx_i2v": "LTX-Video",
    "cogvideox_i2v": "CogVideoX",
    "hunyuan_i2v": "HunyuanVideo",
}
SHAPES = {
    "wan21_i2v": (5, 32, 48),
    "wan22_i2v": (5, 32, 48),
    "wan22_5b_i2v": (5, 32, 64),
    "ltx_i2v": (9, 32, 64),
    "cogvideox_i2v": (9, 32, 48),
    "hunyuan_i2v": (5, 32, 48),
}
BATCHED = ("ltx_i2v", "cogvideox_i2v", "hunyuan_i2v")
RED, BLUE = np.full((20, 60, 3), (200, 30, 30), np.uint8), np.full((20, 60, 3), (30, 30, 200), np.uint8)


def load(folder: Path | str, workload: str = "i2v", **given: Any) -> DiffusersT2V:
    pipeline = DiffusersT2V(model=str(folder), **given)
    pipeline.workload = workload
    pipeline.load(CPU)
    return pipeline


def options(name: str, **others: Any) -> dict[str, Any]:
    frames, height, width = SHAPES[name]
    return {"num_frames": frames, "height": height, "width": width, "num_inference_steps": 2, "max_sequence_length": 32, **others}


def generate(pipeline: DiffusersT2V, *pairs: tuple[int, Any]) -> Sequence[Response]:
    """Clips of pairs of a seed and an image."""
    samples = [Sample(i, "a red disc moves slowly to the left", {}, encode_png(image[None])) for i, (_, image) in enumerate(pairs)]
    return pipeline.generate(samples, [Query(i, i, seed) for i, (seed, _) in enumerate(pairs)])


def pixels(response: Response) -> Any:
    assert response.video_THWC is not None, response.error
    return response.video_THWC.astype(int)


@pytest.fixture(scope="module")
def loaded(tiny_family: Folder) -> Callable[[str], DiffusersT2V]:
    return functools.cache(lambda name: load(tiny_family(name), **options(name)))


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.feature("diffusers_t2v", f"image to video: {NAMES[n]}")) for n in IMAGE_TO_VIDEO]
)
def test_a_family_makes_a_clip_of_an_image(loaded: Callable[[str], DiffusersT2V], name: str) -> None:
    pipeline = loaded(name)
    (one,), (again,), (other,) = (generate(pipeline, (5, image)) for image in (RED, RED, BLUE))
    assert pixels(one).shape == (*SHAPES[name], 3)
    assert len(one.step_s) == 2
    assert {"text_encode", "image_encode", "denoise", "vae_decode"} - set(one.stages) <= {"image_encode"}
    assert one.stages["vae_encode"] > 0
    assert np.array_equal(pixels(one), pixels(again))
    assert not np.array_equal(pixels(one), pixels(other))
    effective = pipeline.effective()
    assert (effective["first_frame"], effective["image"]) == ("trained", f"fitted to {SHAPES[name][2]} x {SHAPES[name][1]}")
    if name in BATCHED:
        first, second = generate(pipeline, (5, RED), (6, BLUE))
        assert np.abs(pixels(first) - pixels(one)).max() <= 1
        assert np.abs(pixels(second) - pixels(one)).max() > 1


@pytest.mark.feature("diffusers_t2v", "MagCache in image to video")
def test_a_cache_is_calibrated_on_an_image(tiny_family: Folder) -> None:
    pipeline = load(tiny_family("ltx_i2v"), **options("ltx_i2v", num_inference_steps=8, cache={"name": "mag", "threshold": 10.0}))
    (one,), (again,) = generate(pipeline, (5, RED)), generate(pipeline, (5, RED))
    assert np.array_equal(pixels(one), pixels(again))
    assert pipeline.fallbacks() == []


def test_an_image_that_cannot_be_read_fails_its_query(loaded: Callable[[str], DiffusersT2V]) -> None:
    (answer,) = loaded("ltx_i2v").generate([Sample(3, "it moves", {}, (b"no picture",))], [Query(0, 3, 1)])
    assert answer.error is not None
    assert answer.error.startswith("sample 3: the file is not an image, or damaged")


@pytest.mark.parametrize(
    ("name", "workload", "changes", "message"),
    [
        ("ltx", "i2v", {}, "is a LTXPipeline, which takes no image. Give the family's image-to-video checkpoint"),
        ("wan22", "i2v", {}, "is a WanPipeline, which takes no image. .* or set first_frame: held for a Wan"),
        ("ltx_i2v", "t2v", {}, "is a LTXImageToVideoPipeline, which needs an image. Use --workload i2v"),
        ("wan22", "t2v", {"first_frame": "held"}, "'first_frame' is 'held', but workload 't2v' has no images"),
        ("ltx", "i2v", {"first_frame": "held"}, "'first_frame' is 'held', which needs a WanPipeline with one timestep a pass"),
        ("wan22_5b", "i2v", {"first_frame": "held"}, "'first_frame' is 'held', which needs a WanPipeline with one timestep a pass"),
        ("hunyuan_i2v", "i2v", {"guidance_scale": 3.0}, "has no guidance embeddings, so option 'guidance_scale' has no effect"),
        (
            "hunyuan_i2v",
            "i2v",
            {"true_cfg_scale": 2.0, "negative_prompt": "", "batch_size": 2},
            "batch_size must be 1, got 2: a HunyuanVideoImageToVideoPipeline uses one black image",
        ),
        pytest.param(
            "wan21_i2v",
            "i2v",
            {"batch_size": 2},
            "batch_size must be 1, got 2: a WanImageToVideoPipeline takes one image a call",
            marks=pytest.mark.feature("diffusers_t2v", "image to video in batches: Wan", refused="diffusers takes one image a call"),
        ),
        pytest.param(
            "hunyuan_i2v",
            "i2v",
            {"cache": {"name": "first_block"}},
            "needs a pipeline that runs its denoiser in named cache contexts",
            marks=pytest.mark.feature(
                "diffusers_t2v", "caches in HunyuanVideo's image to video", refused="its pipeline does not tell passes apart"
            ),
        ),
    ],
)
def test_an_option_that_image_to_video_does_not_support_is_refused_by_name(
    tiny_family: Folder, name: str, workload: str, changes: dict[str, Any], message: str
) -> None:
    size = options(name) if name in SHAPES else {"num_frames": 9, "height": 32, "width": 64}
    with pytest.raises(ConfigError, match=message):
        load(tiny_family(name), workload, **{**size, **changes})


def test_a_cache_cannot_be_combined_with_a_held_frame() -> None:
    with pytest.raises(ConfigError, match="'first_block' cannot be combined with first_frame 'held'"):
        make("pipelines", "diffusers_t2v", {"cache": "first_block", "first_frame": "held"})


HELD: dict[str, Any] = {
    "first_frame": "held",
    "num_frames": 9,
    "height": 48,
    "width": 48,
    "num_inference_steps": 8,
    "guidance_scale": 3.0,
    "max_sequence_length": 64,
}


def test_the_embedded_wan_holds_the_image_and_the_seed_decides_the_rest() -> None:
    (sample,) = ImageToVideo(num_prompts=1).samples()
    pipeline = load("embedded", batch_size=2, **HELD)
    seed = query_seed(42, 0)
    (alone,) = pipeline.generate([sample], [Query(0, 0, seed)])
    same, other = pipeline.generate([sample, sample], [Query(0, 0, seed), Query(1, 0, 7)])
    assert np.abs(pixels(alone) - pixels(same)).max() <= 3
    assert not np.array_equal(pixels(other), pixels(same))
    for answer in (alone, same, other):
        assert psnr(pixels(answer)[0], read_image(*sample.images)) > 28
    assert len(alone.step_s) == 18
    effective = pipeline.effective()
    assert (effective["scheduler"], effective["first_frame"]) == ("HeldFrameScheduler", "held")


@pytest.mark.feature("diffusers_t2v", "image to video by a text-to-video Wan (first_frame: held)")
@pytest.mark.slow
def test_the_embedded_wan_runs_from_load_to_report(suite: SuiteRun) -> None:
    done = suite("--workload", "i2v", *QUICK, "--set", "truth.replays=1", "--set", "warmup_batches=1", "--set", "num_threads=1")
    assert done.returncode == 0, done.stderr
    report = read_report(done)
    assert report["verdict"] == "VALID"
    assert report["figures"]["world_score"]["value"] >= 0.5
    assert report["figures"]["first_frame_psnr"]["value"] > 28
    assert report["effective"]["first_frame"] == "held"
    assert "first_frame_psnr" in last_line(done)["headline"]
