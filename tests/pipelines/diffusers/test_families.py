"""Every family of diffusers' text-to-video pipelines, built small with random weights: what runs, and what is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.errors import ConfigError
from pipelines.diffusers.t2v import DiffusersT2V
from tests.conftest import QUICK, SuiteRun, read_report
from tests.pipelines.diffusers.conftest import CPU, NAMES, SHAPES, Folder, generate, load, options, pixels
from tests.pipelines.diffusers.tiny_families import TEXT_TO_VIDEO


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
    ("name", "changes", "message"),
    [
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
