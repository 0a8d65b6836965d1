"""diffusers' attention backends: effective in every layer, and refused by name where they cannot run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from configs.errors import ConfigError
from tests.pipelines.diffusers.speedups.conftest import EMBEDDED, generate, load, refusal


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("_native_math", marks=pytest.mark.feature("diffusers_t2v", "attention: _native_math")),
        *(
            pytest.param(name, marks=[pytest.mark.slow, pytest.mark.feature("diffusers_t2v", f"attention: {name}")])
            for name in ("native", "_native_flash", "flex")
        ),
    ],
)
def test_a_backend_is_effective_in_every_layer_and_gives_the_same_clip(tiny_wan: Path, plain: Any, name: str) -> None:
    pipeline = load(tiny_wan, attention=name)
    assert (pipeline.effective()["attention"], pipeline.fallbacks()) == (name, [])
    assert np.abs(generate(pipeline, 2) - plain).max() <= 1
    for block in pipeline._pipe.transformer_2.blocks:
        assert {p.processor._attention_backend.value for p in (block.attn1, block.attn2)} == {name}


def test_the_backend_of_one_pipeline_does_not_carry_over_to_the_next(tiny_wan: Path) -> None:
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry

    before = _AttentionBackendRegistry._active_backend
    load(tiny_wan, attention="_native_math")
    assert _AttentionBackendRegistry._active_backend is before
    assert load(tiny_wan).effective()["attention"] == "native"


def test_a_layer_without_the_requested_backend_is_a_fallback(tiny_wan: Path) -> None:
    pipeline = load(tiny_wan, attention="_native_math")
    pipeline._pipe.transformer_2.blocks[1].attn1.processor._attention_backend = None
    assert pipeline.fallbacks() == ["attention of transformer_2 is _native_math and native, not _native_math"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("flsh", "unknown attention 'flsh' (did you mean 'flash'?)"),
        ("_native_efficient", "does not run on cpu in float32: No viable backend"),
        ("_native_cudnn", "requires an NVIDIA GPU; this device is a CPU"),
        ("aiter_fa2_hub", "needs AITER's kernels, which cpu (a CPU) lacks"),
    ],
)
def test_a_backend_that_cannot_run_here_is_refused_before_weights_are_read(
    tiny_wan: Path, name: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import diffusers

    monkeypatch.delattr(diffusers.DiffusionPipeline, "from_pretrained")
    assert why in refusal(lambda: load(tiny_wan, attention=name))


@pytest.mark.gpu
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.feature("diffusers_t2v", f"attention: {name}"))
        for name in ("flash", "sage", "xformers", "aiter_fa2_hub", "_native_cudnn", "_native_efficient")
    ],
)
def test_a_gpu_backend_gives_nearly_the_clip_of_the_native_one(name: str) -> None:
    options = {**EMBEDDED, "dtype": "bfloat16"}
    try:
        pipeline = load("embedded", torch.device("cuda"), **{**options, "attention": name})
    except ConfigError as error:
        pytest.skip(str(error))
    assert (pipeline.effective()["attention"], pipeline.fallbacks()) == (name, [])
    native = generate(load("embedded", torch.device("cuda"), **options))
    assert np.abs(generate(pipeline) - native).mean() < 8  # of 255: two clips of different prompts differ by more
