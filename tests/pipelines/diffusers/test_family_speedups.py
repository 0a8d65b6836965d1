"""Caches and splits over ranks in the families other than Wan: what runs, and what is refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from configs.errors import ConfigError
from configs.settings import ParallelSettings
from pipelines.diffusers.t2v import DiffusersT2V
from pipelines.distributed.replica import Replica
from tests.pipelines.diffusers.conftest import CPU, NAMES, Folder, generate, load, options, pixels

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
    ("name", "cache", "message"),
    [
        pytest.param(
            n,
            "sea",
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
            "faster",
            "passes them as a sequence of tokens. Set is_guidance_distilled: true",
            marks=pytest.mark.feature(
                "diffusers_t2v", "FasterCache's guidance on LTX-Video", refused="diffusers filters latents as a picture"
            ),
        ),
    ],
)
def test_a_cache_that_a_family_does_not_support_is_refused_by_name(tiny_family: Folder, name: str, cache: str, message: str) -> None:
    pipeline = DiffusersT2V(model=str(tiny_family(name)), **options(name, cache=cache))
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
