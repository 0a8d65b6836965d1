"""diffusers' attention backends: effective in every layer, and refused by name where they cannot run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from configs.errors import ConfigError
from pipelines.diffusers.speedups.attention import Attention
from pipelines.diffusers.trials import attention as attention_trial
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


def test_on_a_cpu_there_is_no_trial(tiny_wan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(attention_trial, "times")
    effective = load(tiny_wan, attention="auto").effective()
    assert (effective["attention"], "attention_choice" in effective) == ("native", False)


SHAPE = attention_trial.Shape(1, 16, 2, 8)


def test_a_trial_times_what_runs_and_says_why_the_rest_does_not() -> None:
    seconds, why_not = attention_trial.times(("_native_flash", "_native_efficient", "flash"), SHAPE, torch.device("cpu"), torch.float32)
    assert list(seconds) == ["native", "_native_flash"]
    assert why_not["_native_efficient"].startswith("No viable backend")
    assert "flash-attn" in why_not["flash"]


def test_a_kernel_with_another_result_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers.models import attention_dispatch as library

    real = library.dispatch_attention_fn

    def wrong(*qkv: torch.Tensor, backend: Any) -> torch.Tensor:
        return torch.as_tensor(real(*qkv, backend=backend)) * (1.1 if backend.value == "_native_math" else 1.0)

    monkeypatch.setattr(library, "dispatch_attention_fn", wrong)
    seconds, why_not = attention_trial.times(("_native_math",), SHAPE, torch.device("cpu"), torch.float32)
    assert (list(seconds), why_not) == (["native"], {"_native_math": "its output differs from native's by 0.1"})


def test_the_fastest_backend_with_which_the_model_gives_nearly_the_same_is_taken() -> None:
    used: list[str] = []

    def step() -> torch.Tensor:
        if used[-1] == "flash":
            raise ValueError("`attn_mask` is not supported")
        return torch.full((4,), {"native": 1.0, "_flash_3": 1.5, "sage": 1.01}[used[-1]])

    seconds = {"native": 1.0, "sage": 0.9, "_flash_3": 0.5, "flash": 0.6, "slow": 0.99}
    chosen, refused = attention_trial.choose(seconds, used.append, step, torch.device("cpu"))
    assert (chosen, used) == ("sage", ["native", "_flash_3", "flash", "sage"])
    assert refused == {"_flash_3": "a step's latents differ from native's by 0.5", "flash": "`attn_mask` is not supported"}
    assert attention_trial.choose({"native": 1.0, "slow": 0.99}, used.append, step, torch.device("cpu")) == ("native", {})
    broken = attention_trial.choose(seconds, lambda _: None, lambda: torch.zeros(1 // 0), torch.device("cpu"))
    assert broken == ("native", {"a step with native": "integer division or modulo by zero"})
    text = attention_trial.reason("sage", {"native": 0.002, "sage": 0.001}, {"flash": "is not installed"})
    assert text == "fastest of a trial: sage 1 ms, native 2 ms; flash: is not installed"


def test_the_models_own_trial_sets_a_backend_in_every_denoiser(tiny_wan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial of a GPU, with the CPU's backends: the denoiser is really run for a step with each."""
    pipeline = load(tiny_wan)
    attention = next(one for one in pipeline._speed_ups if isinstance(one, Attention))
    monkeypatch.setattr(attention_trial, "candidates", lambda *_: ("_native_math", "_native_efficient"))
    monkeypatch.setattr(attention_trial, "WORTHWHILE", 1e9)
    chosen, why = attention._choose(pipeline._loaded)
    assert chosen in ("native", "_native_math")
    assert pipeline.effective()["attention"] == chosen
    assert "_native_efficient: No viable backend" in why


def test_only_half_precision_on_a_gpu_has_candidates() -> None:
    assert attention_trial.candidates(torch.device("cpu"), torch.bfloat16) == ()
    assert attention_trial.candidates(torch.device("cuda"), torch.float32) == ()
    assert "_native_cudnn" in attention_trial.candidates(torch.device("cuda"), torch.bfloat16) or torch.version.hip


@pytest.mark.gpu
@pytest.mark.feature("diffusers_t2v", "attention: the fastest of a trial")
def test_on_a_gpu_the_fastest_backend_is_chosen_and_named() -> None:
    options = {**EMBEDDED, "dtype": "bfloat16"}
    pipeline, native = (load("embedded", torch.device("cuda"), **options, attention=name) for name in (None, "native"))
    assert "trial: " in pipeline.effective()["attention_choice"]
    assert pipeline.fallbacks() == []
    assert np.abs(generate(pipeline) - generate(native)).mean() < 8  # of 255, as below


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
