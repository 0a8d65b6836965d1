"""Quantised denoisers of a Wan with random weights: effective in their weights, and refused by name where they cannot be."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from configs.errors import ConfigError
from configs.registry import make
from pipelines.diffusers.speedups.quantisation import Quantisation
from pipelines.diffusers.t2v import DiffusersT2V
from tests.pipelines.diffusers.speedups.conftest import generate, load

NUM_LAYERS = 2 * (2 * 10 + 6)  # of both experts: in blocks, and outside
NUM_KEPT = 2 * 2  # the time embedders, which Wan keeps in float32
needs_torchao = pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="needs torchao")


@pytest.mark.feature("diffusers_t2v", "quantisation: weights rounded to 2 to 8 bits", note="tells the quality, saves nothing")
@pytest.mark.parametrize("bits", [8, 2])
def test_rounded_weights_have_at_most_that_many_levels_a_row(tiny_wan: Path, bits: int) -> None:
    pipeline = load(tiny_wan, quantisation={"name": "round", "bits": bits})
    assert pipeline.effective()["quantisation"] == f"rounded to {bits} bits in {NUM_LAYERS - NUM_KEPT} of {NUM_LAYERS} linear layers"
    assert pipeline.fallbacks() == []
    for expert in (pipeline._pipe.transformer, pipeline._pipe.transformer_2):
        rows = expert.blocks[1].ffn.net[0].proj.weight
        steps = rows / rows.abs().amax(1, keepdim=True) * (2 ** (bits - 1) - 1)
        assert (steps - steps.round()).abs().max() < 1e-4
        assert max(len(row.unique()) for row in rows) <= 2**bits - 1


def test_fewer_bits_change_a_clip_more(tiny_wan: Path, plain: Any) -> None:
    rounded = (generate(load(tiny_wan, quantisation={"name": "round", "bits": bits})) for bits in (8, 2))
    fine, coarse = (np.abs(clip - plain[:1]).mean() for clip in rounded)
    assert 0 < fine < coarse / 3


def test_only_the_denoisers_are_rounded(tiny_wan: Path) -> None:
    plain = load(tiny_wan)
    pipeline = load(tiny_wan, quantisation={"name": "round", "bits": 2, "modules_to_not_convert": ["proj_out"]})
    for part in ("text_encoder", "vae"):
        before, after = (dict(getattr(p._pipe, part).state_dict()) for p in (plain, pipeline))
        assert all(torch.equal(before[name], after[name]) for name in before)
    before, after = plain._pipe.transformer, pipeline._pipe.transformer
    assert torch.equal(before.proj_out.weight, after.proj_out.weight)
    assert torch.equal(before.condition_embedder.time_embedder.linear_1.weight, after.condition_embedder.time_embedder.linear_1.weight)
    assert not torch.equal(before.blocks[0].attn1.to_q.weight, after.blocks[0].attn1.to_q.weight)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_bits_are_read_from_weights_of_any_dtype(tiny_wan: Path, dtype: str) -> None:
    assert load(tiny_wan, dtype=dtype).effective()["quantisation"] == "none"
    assert (
        load(tiny_wan, quantisation={"name": "round", "bits": 4}, dtype=dtype)
        .effective()["quantisation"]
        .startswith("rounded to 4 bits in ")
    )


def test_a_layer_that_is_not_quantised_is_a_fallback(tiny_wan: Path) -> None:
    pipeline = load(tiny_wan, quantisation={"name": "round", "bits": 3})
    with torch.no_grad():
        pipeline._pipe.transformer_2.blocks[0].attn1.to_q.weight.normal_()
    assert pipeline.fallbacks() == [
        f"quantisation 'round' left 1 of {NUM_LAYERS - NUM_KEPT} linear layers unquantised, first blocks.0.attn1.to_q"
    ]
    pipeline = load(tiny_wan, quantisation={"name": "round", "bits": 8})
    quantisation: Any = next(one for one in pipeline._speed_ups if one.option == "quantisation")
    quantisation._config = type(quantisation._config)(bits=4)
    assert pipeline.fallbacks() == ["quantisation 'round' has weights of 8 bits, not 4"]


def test_rounded_weights_can_be_combined_with_a_cache(tiny_wan: Path) -> None:
    cache = {"name": "first_block", "threshold": 0.5}
    pipeline = load(tiny_wan, quantisation={"name": "round", "bits": 4}, cache=cache, num_inference_steps=8)
    generate(pipeline)
    assert pipeline.fallbacks() == []
    assert "rounded to 4 bits" in pipeline.effective()["quantisation"]
    assert pipeline.effective()["cache"].startswith("first_block(")


@pytest.mark.feature("diffusers_t2v", "quantisation: layerwise casting to float8")
def test_weights_are_stored_in_float8_and_computed_with_in_the_models_dtype(tiny_wan: Path, plain: Any) -> None:
    pipeline = load(tiny_wan, quantisation={"name": "layerwise", "storage": "float8_e5m2"})
    effective = pipeline.effective()
    assert (effective["quantisation"], effective["dtype"]) == ("float8_e5m2 in 40 of 52 linear layers", "float32")
    assert 0 < np.abs(generate(pipeline) - plain[:1]).mean() < 10
    assert pipeline._pipe.transformer.blocks[0].attn1.to_q.weight.dtype is torch.float8_e5m2
    assert pipeline.fallbacks() == []


@needs_torchao
def test_an_empty_prompt_does_not_make_float8_divide_by_zero() -> None:
    """An empty prompt is all zeros at the first layer; torchao's scale of it was 0, and the frames NaN."""
    from torchao.quantization.quant_primitives import _choose_scale_float8, _quantize_affine_float8

    kind = {"name": "torchao", "quant_type": "Float8DynamicActivationFloat8WeightConfig"}
    config = Quantisation(DiffusersT2V(quantisation=kind))._config.quant_type
    zeros = torch.zeros(4, 8)
    scale = _choose_scale_float8(zeros, [4, 8], hp_value_lb=config.activation_value_lb)
    assert not _quantize_affine_float8(zeros, scale, torch.float8_e4m3fn).float().any()


@needs_torchao
@pytest.mark.parametrize(
    ("options", "stored"),
    [
        pytest.param(options, stored, marks=pytest.mark.feature("diffusers_t2v", f"quantisation: torchao {options['quant_type']}"))
        for options, stored in (
            ({"quant_type": "Int8WeightOnlyConfig"}, "Int8Tensor (int8)"),
            ({"quant_type": "Int8DynamicActivationInt8WeightConfig"}, "Int8Tensor (int8)"),
            (
                {"quant_type": "IntxWeightOnlyConfig", "weight_dtype": "int4", "granularity": {"PerGroup": 8}},
                "IntxUnpackedToInt8Tensor (int4)",
            ),
            ({"quant_type": "Float8WeightOnlyConfig"}, "Float8Tensor (float8_e4m3fn)"),
        )
    ],
)
def test_torchao_weights_are_effective(tiny_wan: Path, plain: Any, options: dict[str, Any], stored: str) -> None:
    pipeline = load(tiny_wan, quantisation={"name": "torchao", **options})
    assert pipeline.effective()["quantisation"] == f"{stored} in {NUM_LAYERS - NUM_KEPT} of {NUM_LAYERS} linear layers"
    assert pipeline.fallbacks() == []
    assert 0 < np.abs(generate(pipeline) - plain[:1]).mean() < 20


@needs_torchao
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "unknown quant_type None; known: .*Int8WeightOnlyConfig"),
        ({"quant_type": "Int8WeightOnly"}, r"unknown quant_type 'Int8WeightOnly' \(did you mean 'Int8WeightOnlyConfig'\?\)"),
        ({"quant_type": "IntxWeightOnlyConfig", "weight_dtyp": "int4"}, r"unknown option 'weight_dtyp' \(did you mean 'weight_dtype'\?\)"),
        ({"quant_type": "IntxWeightOnlyConfig", "granularity": "PerLine"}, "option 'granularity' is 'PerLine': give one of .*PerGroup"),
        ({"quant_type": "IntxWeightOnlyConfig", "granularity": {"PerGroup": 7}}, "'torchao' does not run on cpu in float32: "),
    ],
)
def test_wrong_torchao_options_are_refused(tiny_wan: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tiny_wan, quantisation={"name": "torchao", **options})


@pytest.mark.parametrize(
    ("quantisation", "message"),
    [
        ("ggml", r"unknown quantisation 'ggml' \(did you mean 'gguf'\?\); known: bitsandbytes, gguf, layerwise, quark, round, torchao"),
        ({"bits": 4}, r"option 'quantisation' has no 'name'; known: round"),
        ("round", r"quantisation 'round': option 'bits' is required"),
        ({"name": "round", "bits": 1}, r"quantisation 'round': bits must be from 2 to 8, got 1"),
        ({"name": "round", "bit": 4}, r"quantisation 'round' has unknown option 'bit' \(did you mean 'bits'\?\)"),
    ],
)
def test_wrong_options_are_refused_at_once(quantisation: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make("pipelines", "diffusers_t2v", {"quantisation": quantisation})


@pytest.mark.feature("diffusers_t2v", "quantisation: bitsandbytes on a CPU", refused="diffusers 0.42 quantises with it on GPUs only")
@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None or torch.cuda.is_available(), reason="needs bitsandbytes, and no GPU")
def test_bitsandbytes_is_refused_on_a_cpu(tiny_wan: Path) -> None:
    with pytest.raises(ConfigError, match="quantisation 'bitsandbytes' does not run on cpu in float32: No GPU found"):
        load(tiny_wan, quantisation={"name": "bitsandbytes", "load_in_8bit": True})


@pytest.mark.parametrize("package", ["torchao", "bitsandbytes"])
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=f"quantisation '{package}' needs a package: pip install {package}"):
        make("pipelines", "diffusers_t2v", {"quantisation": package})
