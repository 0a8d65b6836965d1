"""Every family of diffusers' text-to-video pipelines, built small with random weights: what runs, and what is refused by name."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from configs.errors import ConfigError
from configs.settings import ParallelSettings
from pipelines.base import Response
from pipelines.diffusers.t2v import DiffusersT2V
from pipelines.distributed.replica import Replica
from tests.conftest import QUICK, SuiteRun, read_report
from tests.pipelines.diffusers.tiny_families import TEXT_TO_VIDEO
from workloads.records import Query, Sample

CPU = torch.device("cpu")
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
STRONG: dict[str, dict[str, Any]] = {
    "first_block": {"threshold": 0.5},
    "taylorseer": {"cache_identifiers": [r".*blocks\.\d+$"]},
    "mag": {"threshold": 10.0},
    "pyramid_attention_broadcast": {"spatial_attention_block_skip_range": 4, "spatial_attention_timestep_skip_range": [0, 990]},
    "faster": {"spatial_attention_timestep_skip_range": [0, 850]},
}
CACHES = {
    "first_block": "First-block cache",
    "taylorseer": "TaylorSeer",
    "mag": "MagCache",
    "pyramid_attention_broadcast": "Pyramid attention broadcast",
    "faster": "FasterCache",
}
QUICK_CACHES = (("ltx", "faster"), ("cogvideox", "faster"), ("hunyuan", "first_block"), ("mochi", "mag"))  # where families differ


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


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.feature("diffusers_t2v", f"family: {NAMES[n]}")) for n in TEXT_TO_VIDEO]
)
def test_a_family_makes_the_requested_clip(loaded: Callable[[str], DiffusersT2V], name: str) -> None:
    pipeline = loaded(name)
    (alone,) = generate(pipeline, 5)
    first, second = generate(pipeline, 5, 6)
    *shape, fps = SHAPES[name]
    assert pixels(alone).shape == (*shape, 3)
    assert (alone.num_units, alone.fps) == (shape[0], fps)
    assert np.abs(pixels(alone) - pixels(first)).max() <= 1  # a batch's sums are rounded in another order
    assert np.abs(pixels(first) - pixels(second)).max() > 10
    assert len(alone.step_s) == 2
    assert sum(alone.step_s) == pytest.approx(alone.stages["denoise"], rel=1e-6)
    assert set(alone.stages) == {"text_encode", "denoise", "vae_decode", "other"}
    assert pipeline.fallbacks() == []


@pytest.mark.parametrize("name", ["ltx", "hunyuan"])  # guided in one batch, and in two passes
def test_prompt_and_negative_prompt_change_the_clip(loaded: Callable[[str], DiffusersT2V], tiny_family: Folder, name: str) -> None:
    plain, other = (pixels(generate(loaded(name), 5, prompt=p)[0]) for p in ("a red disc stays still", "two small blue boxes move fast"))
    assert not np.array_equal(plain, other)
    negative = load(tiny_family(name), options(name, negative_prompt="three small yellow hoops slide quickly leftward"))
    assert not np.array_equal(pixels(generate(negative, 5, prompt="a red disc stays still")[0]), plain)


@pytest.mark.parametrize(
    ("name", "cache"),
    [
        pytest.param(
            name,
            cache,
            marks=[
                pytest.mark.feature("diffusers_t2v", f"{CACHES[cache]} on {NAMES[name]}"),
                *([] if (name, cache) in QUICK_CACHES else [pytest.mark.slow]),
            ],
        )
        for name in ("ltx", "cogvideox", "hunyuan", "mochi")
        for cache in STRONG
    ],
)
def test_a_cache_skips_work_in_a_family(tiny_family: Folder, name: str, cache: str) -> None:
    parameters = {"name": cache, **STRONG[cache]}
    if cache == "faster" and name in ("ltx", "hunyuan"):
        parameters["is_guidance_distilled"] = True
    pipeline = load(tiny_family(name), options(name, num_inference_steps=8, cache=parameters))
    (first,) = generate(pipeline, 1)
    share = float(pipeline.effective()["cache"].rsplit("; ", 1)[1].split("%")[0]) / 100
    assert 0.02 < share < 0.9
    assert pipeline.fallbacks() == []
    assert np.array_equal(pixels(generate(pipeline, 1)[0]), pixels(first))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        pytest.param(
            n,
            {"cache": {"name": "sea"}},
            "cache 'sea' needs a pipeline that passes the step and its noise level",
            marks=pytest.mark.feature(
                "diffusers_t2v", f"SeaCache on {NAMES[n]}", refused="its pipeline does not tell caches the noise level"
            ),
        )
        for n in ("ltx", "cogvideox", "hunyuan", "mochi")
    ]
    + [
        pytest.param(
            "ltx",
            {"cache": {"name": "faster"}},
            "passes them as a sequence of tokens. Set is_guidance_distilled: true",
            marks=pytest.mark.feature(
                "diffusers_t2v", "FasterCache's guidance on LTX-Video", refused="diffusers filters latents as a picture"
            ),
        ),
        ("ltx", {"num_frames": 10}, "num_frames must be a multiple of 8, plus 1, for .*, got 10"),
        ("ltx", {"width": 48}, "width must be a multiple of 32 for .*, got 48"),
        ("mochi", {"num_frames": 9}, "must be a multiple of 6, plus 1"),
        ("mochi", {"height": 40}, "height must be a multiple of 16 for .*, got 40"),
        ("cogvideox", {"num_frames": 5}, "must be a multiple of 8, plus 1"),  # diffusers would make 8
        ("cogvideox", {"height": 40}, "must be a multiple of 16"),
        ("hunyuan", {"num_frames": 7}, "must be a multiple of 4, plus 1"),
        ("hunyuan", {"width": 40}, "must be a multiple of 16"),
        ("wan22_5b", {"width": 48}, "must be a multiple of 32"),
        ("wan21", {"true_cfg_scale": 2.0}, "a WanPipeline, which has no option 'true_cfg_scale'"),
        ("wan21", {"guidance_scale_2": 2.0}, "has one expert, so option 'guidance_scale_2' has no effect"),
        ("mochi", {"guidance_scale": 1.0, "negative_prompt": "blue"}, "'negative_prompt' has no effect where guidance_scale is 1.0"),
        ("hunyuan", {"true_cfg_scale": None}, "true_cfg_scale is 1.0, negative_prompt is 'a blue ring'. Give both, or neither"),
        ("hunyuan", {"negative_prompt": None}, "true_cfg_scale is 3.0, negative_prompt is None. Give both, or neither"),
        (
            "ltx",
            {"extra": {"decode_timestp": 0.1}},
            r"'extra', for a LTXPipeline: unknown parameter 'decode_timestp' \(did",
        ),
        ("ltx", {"extra": {"guidance_scale": 3}}, "'extra' contains 'guidance_scale', which is an option itself"),
        ("ltx", {"extra": {"guidance_rescale": "much"}}, "option 'extra', guidance_rescale is 'much': input should be a valid number"),
    ],
)
def test_an_option_that_a_family_would_ignore_is_refused_by_name(
    tiny_family: Folder, name: str, changes: dict[str, Any], message: str
) -> None:
    pipeline = DiffusersT2V(model=str(tiny_family(name)), **options(name, **changes))
    with pytest.raises(ConfigError, match=message):
        pipeline.load(CPU)


@pytest.mark.parametrize(
    ("name", "parallel", "message"),
    [
        pytest.param(
            n,
            {"cfg": 2},
            "makes both guidance passes in one batch",
            marks=pytest.mark.feature("diffusers_t2v", f"parallel.cfg on {NAMES[n]}", refused="both guidance passes are one batch"),
        )
        for n in ("ltx", "cogvideox", "mochi")
    ]
    + [
        pytest.param(
            n,
            {"context": 2},
            "but diffusers cannot split a",
            marks=pytest.mark.feature("diffusers_t2v", f"parallel.context on {NAMES[n]}", refused="diffusers has no plan for splitting it"),
        )
        for n in ("cogvideox", "hunyuan", "mochi")
    ]
    + [
        pytest.param(
            "ltx",
            {"context": 2},
            "splits the attention mask of a LTXPipeline's text",
            marks=pytest.mark.feature("diffusers_t2v", "parallel.context on LTX-Video", refused="diffusers splits its text's mask wrongly"),
        )
    ],
)
def test_a_split_over_ranks_that_a_family_does_not_support_is_refused(
    tiny_family: Folder, name: str, parallel: dict[str, int], message: str
) -> None:
    pipeline = DiffusersT2V(model=str(tiny_family(name)), **options(name))
    pipeline.replica = Replica(ParallelSettings.model_validate(parallel), (0, 1))
    with pytest.raises(ConfigError, match=message):
        pipeline.load(CPU)


def test_hunyuanvideo_is_guided_in_one_pass_or_in_two(tiny_family: Folder) -> None:
    alone: dict[str, Any] = {"true_cfg_scale": None, "negative_prompt": None}
    two: dict[str, Any] = {}
    calls = []
    for changes in (alone, two):
        pipeline = load(tiny_family("hunyuan"), options("hunyuan", **changes))
        pipeline._pipe.transformer.register_forward_hook(lambda *_: calls.append(1))
        generate(pipeline, 1)
        calls.append(0)
    assert calls == [1] * 2 + [0] + [1] * 4 + [0]


def test_extra_arguments_reach_the_call(tiny_family: Folder, loaded: Callable[[str], DiffusersT2V]) -> None:
    rescaled = load(tiny_family("ltx"), options("ltx", extra={"guidance_rescale": 0.9}))
    slower = load(tiny_family("ltx"), options("ltx", fps=8))
    plain = pixels(generate(loaded("ltx"), 1)[0])
    assert not np.array_equal(plain, pixels(generate(rescaled, 1)[0]))
    (answer,) = generate(slower, 1)
    assert answer.fps == 8
    assert not np.array_equal(plain, pixels(answer))  # LTX-Video's call takes the frame rate


def test_a_clip_of_another_size_than_requested_is_an_error(loaded: Callable[[str], DiffusersT2V], monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = loaded("wan21")
    monkeypatch.setattr(pipeline._family, "_given", {"num_frames": 9})
    monkeypatch.setattr(pipeline._family, "arguments", lambda n, fps: {**options("wan21"), "num_frames": 5})
    with pytest.raises(ConfigError, match=r"num_frames is 9, but .* made 5"):
        generate(pipeline, 1)


@pytest.mark.feature("diffusers_t2v", "random weights of a folder's architecture", note="Wan, LTX-Video")
def test_random_weights_of_another_familys_folder(tiny_family: Folder, tmp_path: Path) -> None:
    for file in tiny_family("ltx").rglob("*.json"):
        if file.parent.name != "tokenizer":
            target = tmp_path / "ltx" / file.relative_to(tiny_family("ltx"))
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    config = tmp_path / "ltx/text_encoder/config.json"
    values = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps(values | {"vocab_size": 320}), encoding="utf-8")
    pipeline = DiffusersT2V(weights="random", architecture=str(tmp_path / "ltx"), **options("ltx"))
    pipeline.load(CPU)
    assert pixels(generate(pipeline, 1)[0]).shape == (9, 32, 64, 3)
    assert pipeline.effective()["weights"] == "random"


def test_random_weights_of_a_family_with_two_tokenizers_are_refused(tiny_family: Folder) -> None:
    pipeline = DiffusersT2V(weights="random", architecture=str(tiny_family("hunyuan")), **options("hunyuan"))
    with pytest.raises(ConfigError, match=r"has 2 tokenizers .* the prompt template is counted in their tokens"):
        pipeline.load(CPU)


@pytest.mark.slow
def test_another_family_than_wan_runs_from_load_to_report(suite: SuiteRun, tiny_family: Folder) -> None:
    words = [f"pipeline.{k}={v}" for k, v in options("ltx", model=tiny_family("ltx"), batch_size=4).items()]
    off = "canaries={noise: off, black: off}"  # random weights make no pictures
    done = suite("--workload", "t2v", *QUICK, *[w for change in (*words, off, "pipeline.guidance_scale=3") for w in ("--set", change)])
    assert done.returncode == 0, done.stderr
    report = read_report(done)
    assert report["verdict"] == "VALID"
    frames, *_ = SHAPES["ltx"]
    assert {s["num_units"] for s in report["samples"]} == {frames}
    assert report["effective"]["pipeline"] == "LTXPipeline"
