"""vLLM's options for ROCm: what is refused, the variables that they become, and what is effective on a GPU of AMD."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from configs.errors import ConfigError
from pipelines.devices.accelerators import can
from pipelines.vllm.engine_args import import_vllm
from pipelines.vllm.pipeline import Vllm
from pipelines.vllm.rocm import RocmOptions, ineffective_options
from tests.conftest import TWO_RANKS, SuiteRun, read_report
from tests.pipelines.vllm.vllm_pipeline import BRIEF, CPU, GPU, ask, load_on_gpu, needs_vllm


@pytest.mark.parametrize("options", [{"aiter": True}, {"aiter": {"mha": False}}, {"quick_reduce": "INT8"}, {"aiter": False}])
def test_rocm_options_are_refused_elsewhere(options: dict[str, Any], device_is: Any) -> None:
    name = next(iter(options))
    with pytest.raises(ConfigError, match=f"{name} needs vLLM on ROCm, and this run is on a CPU"):
        Vllm(**options).load(CPU)
    device_is("sm_90")
    with pytest.raises(ConfigError, match=f"{name} needs vLLM on ROCm, and this run is on CUDA"):
        Vllm(**options).load(GPU)


@pytest.mark.parametrize(
    ("architecture", "options", "num_ranks", "message"),
    [
        ("gfx90a", {"aiter": True}, 1, r"option 'aiter' needs AITER's kernels, which gfx90a .* lacks; .* gfx942"),
        ("gfx90a", {"quick_reduce": "FP"}, 2, r"needs sums over GPUs by quick reduce, which gfx90a"),
        ("gfx942", {"quick_reduce": "INT8"}, 1, r"needs replicas of 2, 4, 8 ranks, and parallel.tensor is 1"),
        ("gfx942", {"quick_reduce": "INT3"}, 4, r"needs replicas of 2 ranks, and parallel.tensor is 4"),
    ],
)
def test_what_an_instinct_cannot_do_is_refused(
    architecture: str, options: dict[str, Any], num_ranks: int, message: str, device_is: Any
) -> None:
    device_is(architecture)
    with pytest.raises(ConfigError, match=message):
        RocmOptions(**options).check(GPU, num_ranks, "bfloat16")


def test_rocm_options_become_environment_variables(device_is: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    device_is("gfx950")
    options = RocmOptions({"mha": False, "moe": True}, "INT4", quick_reduce_cast=False)
    options.check(GPU, 8, "auto")
    assert options.variables() == {
        "VLLM_ROCM_USE_AITER": "1",
        "VLLM_ROCM_USE_AITER_MHA": "0",
        "VLLM_ROCM_USE_AITER_MOE": "1",
        "VLLM_ROCM_QUICK_REDUCE_QUANTIZATION": "INT4",
        "VLLM_ROCM_QUICK_REDUCE_CAST_BF16_TO_FP16": "0",
    }
    assert RocmOptions().variables() == {}
    monkeypatch.setenv("VLLM_ROCM_USE_AITER", "True")
    options.check(GPU, 8, "auto")  # says the same
    monkeypatch.setenv("VLLM_ROCM_USE_AITER_MHA", "1")
    with pytest.raises(ConfigError, match="VLLM_ROCM_USE_AITER_MHA=0, but the environment has 1; unset it"):
        options.check(GPU, 8, "auto")


@needs_vllm
def test_vllm_knows_every_variable_and_reports_every_part() -> None:
    import_vllm(CPU, "llm", {})
    from vllm import envs
    from vllm._aiter_ops import rocm_aiter_ops

    from pipelines.vllm.rocm import AITER, CAST, PARTS, QUICK_REDUCE

    for name in (AITER, QUICK_REDUCE, CAST, *(f"{AITER}_{part.upper()}" for part in PARTS)):
        assert name in envs.environment_variables
    assert all(callable(getattr(rocm_aiter_ops, part.check)) for part in PARTS.values())


@pytest.mark.parametrize(
    ("options", "facts", "attention", "messages"),
    [
        (RocmOptions(True), {"aiter": "on: linear, moe"}, ["ROCM_ATTN"], []),
        (RocmOptions(True), {"aiter": "off"}, ["ROCM_ATTN"], ["aiter is off, not on"]),
        (RocmOptions(False), {"aiter": "on: moe"}, ["ROCM_ATTN"], ["aiter is on: moe, not off"]),
        (RocmOptions({"moe": False}), {"aiter": "on: linear, moe"}, ["ROCM_ATTN"], ["aiter's part moe is on, not off"]),
        (
            RocmOptions({"mha": True}),
            {"aiter": "on: mha"},
            ["ROCM_ATTN"],
            ["aiter's part mha is allowed, but attention is by ROCM_ATTN; name it by attention_backend"],
        ),
        (RocmOptions({"mha": True}), {"aiter": "on: mha"}, ["ROCM_AITER_FA"], []),
        (RocmOptions(None, "INT8"), {"aiter": "off", "quick_reduce": "off"}, [], ["quick_reduce is off, not INT8"]),
        (RocmOptions(None, "NONE"), {"aiter": "off", "quick_reduce": "off"}, [], []),
    ],
)
def test_a_rocm_option_that_is_not_effective_is_reported(
    options: RocmOptions, facts: dict[str, str], attention: list[str], messages: list[str]
) -> None:
    assert ineffective_options(options, facts, attention) == messages


def needs_rocm(feature: str) -> None:
    if torch.version.hip is None or not can(GPU, feature):
        pytest.skip(f"needs a GPU of AMD with {feature}")


@needs_vllm
@pytest.mark.gpu
@pytest.mark.feature("vllm", "AITER")
def test_aiter_is_effective_on_an_instinct() -> None:
    needs_rocm("aiter")
    pipeline = load_on_gpu(aiter={"mha": True}, attention_backend="ROCM_AITER_FA")
    assert pipeline.effective()["aiter"].startswith("on: ")
    assert pipeline.effective()["attention"] == "ROCM_AITER_FA"
    assert pipeline.fallbacks() == []
    assert all(r.error is None for r in ask(pipeline))
    pipeline.close()


@needs_vllm
@pytest.mark.gpu
@pytest.mark.feature("vllm", "Quark MXFP4")
def test_quark_mxfp4_is_effective_on_an_instinct() -> None:
    needs_rocm("mxfp4")
    if (folder := os.environ.get("TRIPTYCH_QUARK_MODEL")) is None:
        pytest.skip("needs a checkpoint in Quark's MXFP4, whose folder TRIPTYCH_QUARK_MODEL names")
    pipeline = load_on_gpu(model=folder, quantization="quark", kv_cache_dtype="fp8")
    assert pipeline.effective()["quantisation"] == "quark"
    assert pipeline.fallbacks() == []
    assert all(r.error is None for r in ask(pipeline))
    pipeline.close()


@needs_vllm
@pytest.mark.gpu
@pytest.mark.feature("vllm", "quick reduce")
def test_sums_go_by_quick_reduce_between_two_instincts(suite: SuiteRun, tiny_llama: Path) -> None:
    needs_rocm("quick_reduce")
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    pipeline = f"pipeline={{name: vllm, model: {tiny_llama}, dtype: bfloat16, batch_size: 8, quick_reduce: INT8}}"
    done = suite("--workload", "llm", "--set", pipeline, "--set", "parallel.tensor=2", *BRIEF, launcher=TWO_RANKS)
    assert read_report(done)["effective"]["quick_reduce"] == "INT8"
