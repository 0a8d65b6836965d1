"""diffusers' denoiser caches on a Wan with random weights: each skips work, and is refused by name where it cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from configs.errors import ConfigError
from configs.registry import make
from configs.settings import ParallelSettings
from pipelines.diffusers.t2v import DiffusersT2V
from pipelines.distributed.replica import Replica
from pipelines.models.embedded import VIDEO
from tests.pipelines.diffusers.conftest import CPU, SMALL
from tests.pipelines.diffusers.speedups.conftest import load
from workloads.records import Query, Sample, query_seed
from workloads.t2v import draw_captions

STEPS = 12  # enough for every cache to skip in both experts
STRONG: dict[str, dict[str, Any]] = {
    "first_block": {"threshold": 0.5},
    "taylorseer": {"cache_identifiers": [r"blocks\.\d+"]},
    "mag": {"threshold": 10.0},
    "sea": {"threshold": 10.0},
    "pyramid_attention_broadcast": {"spatial_attention_block_skip_range": 4, "spatial_attention_timestep_skip_range": [0, 990]},
    "faster": {"is_guidance_distilled": True, "spatial_attention_timestep_skip_range": [0, 850]},
}


def load_with(folder: Path, cache: Any, **options: Any) -> DiffusersT2V:
    return load(folder, **{"num_inference_steps": STEPS, "cache": cache, **options})


def clips(pipeline: DiffusersT2V, *seeds: int) -> list[Any]:
    samples = [Sample(seed, f"a red disc number {seed}") for seed in seeds]
    responses = pipeline.generate(samples, [Query(i, i, seed) for i, seed in enumerate(seeds)])
    return [r.video_THWC for r in responses]


@pytest.fixture(scope="module")
def uncached(tiny_wan: Path) -> Any:
    return clips(load_with(tiny_wan, None), 1)[0]


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.feature("diffusers_t2v", f"cache: {n}")) for n in STRONG])
def test_a_cache_skips_work_and_does_not_change_later_answers(tiny_wan: Path, uncached: Any, name: str) -> None:
    pipeline = load_with(tiny_wan, {"name": name, **STRONG[name]})
    (first,) = clips(pipeline, 1)
    assert not np.array_equal(first, uncached)
    text = pipeline.effective()["cache"]
    assert f"{name}(" in text
    assert " in 2 modules; " in text
    share = float(text.rsplit("; ", 1)[1].split("%")[0]) / 100
    assert 0.03 < share < 0.9, text
    assert pipeline.fallbacks() == []
    clips(pipeline, 2)
    assert np.array_equal(clips(pipeline, 1)[0], first)


def test_a_batch_that_fails_leaves_nothing_to_the_next(tiny_wan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = load_with(tiny_wan, {"name": "first_block", "threshold": 0.5})
    (whole,) = clips(pipeline, 1)

    step = pipeline._pipe.scheduler.step

    def out_of_memory(*arguments: Any, **options: Any) -> Any:
        if len(pipeline._timer._steps) == 5:
            raise MemoryError
        return step(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(pipeline._pipe.scheduler, "step", out_of_memory)
        with pytest.raises(MemoryError):
            clips(pipeline, 2)
    assert np.array_equal(clips(pipeline, 1)[0], whole)


def test_a_cache_that_skips_nothing_is_a_fallback(tiny_wan: Path, uncached: Any) -> None:
    pipeline = load_with(tiny_wan, {"name": "first_block", "threshold": 0.0})
    assert pipeline.fallbacks() == []  # no clip was generated yet
    assert np.array_equal(clips(pipeline, 1)[0], uncached)
    assert "0% of the last batch's work skipped" in pipeline.effective()["cache"]
    assert pipeline.fallbacks() == [
        "cache 'first_block' skipped nothing in the last batch. Raise its threshold or the number of steps, or leave it out."
    ]


def test_a_cache_removed_from_a_denoiser_is_a_fallback(tiny_wan: Path) -> None:
    pipeline = load_with(tiny_wan, {"name": "first_block", "threshold": 0.5})
    pipeline._pipe.transformer_2.disable_cache()
    assert pipeline.fallbacks() == ["cache 'first_block' is not enabled in transformer_2"]
    assert "transformer: first_block(threshold=0.5) in 2 modules; transformer_2: none" in pipeline.effective()["cache"]


def test_a_threshold_cache_decides_for_a_whole_batch_and_declares_it() -> None:
    """On the trained model, whose captions differ in how long the first block's output keeps changing."""
    options = {"num_frames": 9, "height": 48, "width": 48, "guidance_scale": 2.0, "max_sequence_length": 64, "batch_size": 2}
    pipeline = load_with(VIDEO, {"name": "first_block", "threshold": 0.15}, **options)
    captions = [text for _, text in draw_captions("simple", 4, "any")]
    samples, queries = [Sample(i, captions[i]) for i in (0, 3)], [Query(i, i, query_seed(42, i)) for i in (0, 3)]
    (alone,) = pipeline.generate(samples[1:], queries[1:])
    _, beside_another = pipeline.generate(samples, queries)
    assert alone.video_THWC is not None
    assert beside_another.video_THWC is not None
    assert np.abs(alone.video_THWC.astype(int) - beside_another.video_THWC).max() > 20
    assert pipeline.repeats == "in_batch"
    assert "decided for a batch at once" in pipeline.effective()["cache"]


def test_a_cache_that_decides_by_step_gives_the_same_clip_in_a_batch(tiny_wan: Path) -> None:
    pipeline = load_with(tiny_wan, {"name": "taylorseer", **STRONG["taylorseer"]}, batch_size=2)
    first, second = clips(pipeline, 1, 2)
    assert np.abs(clips(pipeline, 1)[0].astype(int) - first).max() <= 1  # a batch's sums are rounded in another order
    assert np.abs(clips(pipeline, 2)[0].astype(int) - second).max() <= 1
    assert pipeline.repeats == load_with(tiny_wan, "first_block").repeats == "alone"


def test_skipped_work_is_counted_as_the_multiply_adds_of_skipped_blocks(tiny_wan: Path) -> None:
    """Two blocks: where the second is skipped in k of n calls, k/n of a block's multiply-adds are left out."""
    pipeline = load_with(tiny_wan, {"name": "first_block", "threshold": 0.5})
    experts = [pipeline._pipe.transformer, pipeline._pipe.transformer_2]
    calls = [0, 0]
    for expert in experts:
        expert.blocks[1].ffn.register_forward_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
        expert.register_forward_hook(lambda *_: calls.__setitem__(1, calls[1] + 1))
    clips(pipeline, 1)
    assert calls[1] == 24
    assert 0 < calls[0] < 24
    outside = 0
    num_tokens, num_text, dim, ffn = 2 * 2 * 3, 16, 24, 32
    inside = num_tokens * (6 * dim * dim + 2 * dim * ffn) + num_text * 2 * dim * dim
    for name, layer in experts[0].named_modules():
        if isinstance(layer, torch.nn.Linear) and not name.startswith("blocks"):
            rows = num_tokens if name == "proj_out" else num_text if "text_embedder" in name else 1
            outside += rows * layer.in_features * layer.out_features
    left_out = (24 - calls[0]) * inside / (24 * (2 * inside + outside))
    cache: Any = next(one for one in pipeline._speed_ups if one.option == "cache")
    assert cache._work.skipped_shares()["all"] == pytest.approx(left_out)


def test_measured_mag_ratios_give_the_same_clip_when_they_are_given(tiny_wan: Path) -> None:
    measured = load_with(tiny_wan, {"name": "mag", "threshold": 0.2})
    configs = [measured._pipe.transformer._cache_config, measured._pipe.transformer_2._cache_config]
    assert [c.num_inference_steps for c in configs] == [len(c.mag_ratios) for c in configs] == [4, 8]
    assert all(c.mag_ratios[0] == 1 and c.mag_ratios.std() > 0 for c in configs)
    ratios = [[round(r, 4) for r in c.mag_ratios.tolist()] for c in configs]
    given = load_with(tiny_wan, {"name": "mag", "threshold": 0.2, "mag_ratios": ratios})
    assert np.array_equal(clips(measured, 1)[0], clips(given, 1)[0])
    assert measured.effective()["cache"] == given.effective()["cache"]


def test_a_range_that_includes_a_denoisers_first_step_is_refused(tiny_wan: Path) -> None:
    cache = {"name": "faster", "is_guidance_distilled": True, "spatial_attention_timestep_skip_range": [-1, 1000]}
    with pytest.raises(ConfigError, match=r"includes the first step of transformer, timestep \d+, .* It must end at \d+ or below"):
        load_with(tiny_wan, cache)


def test_attention_shared_by_both_guidance_passes_is_reported(tiny_wan: Path) -> None:
    cache = {"name": "pyramid_attention_broadcast", "spatial_attention_block_skip_range": 2}
    assert "one state for both guidance passes" in load_with(tiny_wan, cache).effective()["cache"]
    assert "guidance passes" not in load_with(tiny_wan, cache, guidance_scale=1.0).effective()["cache"]


@pytest.mark.parametrize(
    ("cache", "message"),
    [
        ("firstblock", r"unknown cache 'firstblock' \(did you mean 'first_block'\?\)"),
        ({"threshold": 0.2}, r"option 'cache' has no 'name'; known: faster, first_block"),
        ({"name": "first_block", "treshold": 0.2}, r"cache 'first_block' has unknown option 'treshold' \(did you mean 'threshold'\?\)"),
        (
            {"name": "first_block", "threshold": "high"},
            r"cache 'first_block': option 'threshold' is 'high': input should be a valid number",
        ),
        ({"name": "first_block", "threshold": -0.1}, r"threshold must be at least 0, got -0.1"),
        ({"name": "sea", "residual_order": 2}, r"cache 'sea': `residual_order` must be 0 or 1, got 2"),
        ({"name": "taylorseer", "cache_interval": 0}, r"cache_interval must be at least 1, got 0"),
        ({"name": "taylorseer", "taylor_factors_dtype": "float33"}, r"option 'taylor_factors_dtype' is 'float33'"),
        ({"name": "mag", "mag_ratios": [1.0, 0.0]}, r"mag_ratios must be a list of positive numbers, .* got \[1.0, 0.0\]"),
        ({"name": "faster", "attention_weight_callback": 1}, r"has unknown option 'attention_weight_callback'"),
    ],
)
def test_wrong_parameters_are_refused_at_once(cache: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make("pipelines", "diffusers_t2v", {"cache": cache})


@pytest.mark.parametrize(
    ("cache", "parallel", "message"),
    [
        ("taylorseer", {}, r"cache 'taylorseer' finds nothing to cache in a WanTransformer3DModel\. Give cache_identifiers"),
        pytest.param(
            "text_kv",
            {},
            r"cache 'text_kv' finds nothing to cache in a WanTransformer3DModel\. Leave it out",
            marks=pytest.mark.feature("diffusers_t2v", "cache: text_kv", refused="diffusers has it for Nucleus's blocks alone"),
        ),
        pytest.param(
            "faster",
            {},
            r"cache 'faster' takes the first half of a batch for the guidance pass, .* Set is_guidance_distilled: true",
            marks=pytest.mark.feature(
                "diffusers_t2v", "cache: faster, its guidance part", refused="Wan's pipeline makes its guidance passes apart"
            ),
        ),
        ({"name": "mag", "mag_ratios": [[1.0]] * 3}, {}, r"mag_ratios has 3 lists, but the model has 2 denoisers"),
        ("first_block", {"context": 2}, r"cache 'first_block' cannot be combined with parallel.context 2"),
        ("pyramid_attention_broadcast", {"cfg": 2}, r"keeps one state for both guidance passes, which parallel.cfg separates"),
    ],
)
def test_a_cache_that_the_model_or_split_cannot_have_is_refused_before_weights_are_read(
    tiny_wan: Path, monkeypatch: pytest.MonkeyPatch, cache: Any, parallel: dict[str, Any], message: str
) -> None:
    from diffusers import DiffusionPipeline

    pipeline: DiffusersT2V = make(
        "pipelines", "diffusers_t2v", {"model": str(tiny_wan), **SMALL, "num_inference_steps": STEPS, "cache": cache}
    )
    pipeline.replica = Replica(ParallelSettings(**parallel))
    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", lambda *_, **__: pytest.fail("weights were read"))
    with pytest.raises(ConfigError, match=message):
        pipeline.load(CPU)
