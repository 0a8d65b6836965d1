"""Checkpoints for vLLM: architectures with random weights, latent attention, and Quark's formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from configs.errors import ConfigError
from pipelines.vllm.engine_args import check_formats, computed_in
from pipelines.vllm.pipeline import Vllm
from tests.pipelines.vllm.vllm_pipeline import CPU, GPU, PROMPTS, ask, needs_vllm

WIDTH = "vLLM's kernels for latent attention know its published rank alone"
MXFP4 = {"dtype": "fp4", "qscheme": "per_group", "group_size": 32, "scale_format": "e8m0", "is_dynamic": True, "ch_axis": -1}
FP8 = {"dtype": "fp8_e4m3", "qscheme": "per_tensor"}


@needs_vllm
@pytest.mark.feature("vllm", "random weights, llm")
@pytest.mark.parametrize(
    ("architecture", "shrink", "model"),
    [
        ("llama2-70b", {"layers": 2, "width": "1/16", "vocabulary": 512}, "LlamaForCausalLM"),
        ("gpt-oss-120b", {"layers": 2, "width": "1/2", "experts": 4, "vocabulary": 512}, "GptOssForCausalLM"),
    ],
)
def test_an_architecture_is_drawn_by_vllm(loaded: Any, architecture: str, shrink: dict[str, Any], model: str) -> None:
    pipeline = loaded(weights="random", architecture=architecture, shrink=shrink, max_model_len=512, max_new_tokens=8)
    folder = Path(pipeline._folder)
    assert [r.num_units for r in ask(pipeline, PROMPTS[:2])] == [8, 8]
    assert pipeline.effective() | {"model": model, "weights": "random", "architecture": architecture} == pipeline.effective()
    pipeline.close()
    assert not folder.exists()


@pytest.mark.feature("vllm", "random weights of deepseek-r1, shrunk in width", refused=WIDTH)
def test_latent_attention_is_not_shrunk_in_width() -> None:
    pipeline = Vllm(weights="random", architecture="deepseek-r1", shrink={"layers": 2, "width": "1/16"})
    with pytest.raises(ConfigError, match="leave 'width' out of shrink"):
        pipeline.load(CPU)


def quark(weight: Any, inputs: Any) -> dict[str, Any]:
    return {"quant_method": "quark", "global_quant_config": {"weight": weight, "input_tensors": inputs}, "layer_quant_config": {}}


def test_quark_checkpoints_that_compute_in_mxfp4_are_refused_where_it_is_not(device_is: Any, tmp_path: Path) -> None:
    assert computed_in(quark(MXFP4, MXFP4)) == {"mxfp4"}
    assert computed_in(quark([MXFP4], None)) == computed_in(quark(MXFP4, FP8)) == computed_in({"quant_method": "mxfp4"}) == set()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "quantization_config": quark(MXFP4, MXFP4)}))
    device_is("gfx942")
    with pytest.raises(ConfigError, match=r"whose inputs Quark quantises to MXFP4, needs .* gfx950"):
        check_formats(Vllm(model="mine"), str(tmp_path), GPU)
    device_is("gfx950")
    check_formats(Vllm(model="mine"), str(tmp_path), GPU)


@needs_vllm
def test_quark_mxfp4_has_no_kernel_on_a_cpu(loaded: Any, tiny_llama: Path, tmp_path: Path) -> None:
    config = json.loads((tiny_llama / "config.json").read_text()) | {"quantization_config": quark(MXFP4, MXFP4)}
    export = {"kv_cache_group": [], "pack_method": "reorder", "weight_format": "real_quantized"}
    config["quantization_config"] |= {"exclude": ["lm_head"], "export": export, "layer_type_quant_config": {}, "kv_cache_quant_config": {}}
    for file in tiny_llama.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="MXFP4"):
        loaded(model=str(tmp_path), dtype="bfloat16")
