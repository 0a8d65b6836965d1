from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, UMT5EncoderModel

from configs.errors import ConfigError
from pipelines.diffusers.t2v import DiffusersT2V
from pipelines.models.architectures import ARCHITECTURES, Shrink, diffusers_values, folder_of, transformers_values
from pipelines.models.byte_tokenizer import byte_tokenizer
from pipelines.models.random_weights import draw_diffusers, language_model
from pipelines.transformers.llm import TransformersLLM
from pipelines.transformers.vlm import TransformersVLM
from workloads.records import Query, Sample

CPU = torch.device("cpu")
TINY: dict[str, Any] = {"layers": 2, "width": "1/16", "vocabulary": 320}
PUBLISHED = {"llama2-70b": 68.98e9, "llama3.1-8b": 8.03e9, "gpt-oss-120b": 116.8e9, "deepseek-r1": 671e9, "qwen3-vl-235b-a22b": 235.7e9}
WAN = "wan2.2-t2v-a14b"


def count(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("name", "published"), PUBLISHED.items())
def test_a_published_architecture_has_as_many_parameters_as_published(name: str, published: float) -> None:
    kind: Any = AutoModelForImageTextToText if "vl" in name else AutoModelForCausalLM
    with torch.device("meta"):
        model = kind.from_config(AutoConfig.from_pretrained(folder_of(name)))
    assert count(model) == pytest.approx(published, rel=0.01)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        (WAN, {"transformer": 14.3e9, "transformer_2": 14.3e9, "vae": 127e6}),
        ("wan2.1-t2v-1.3b", {"transformer": 1.42e9, "vae": 127e6}),  # its name leaves a tenth out
    ],
)
def test_wans_parts_have_as_many_parameters_as_published(name: str, parts: Mapping[str, float]) -> None:
    with torch.device("meta"):
        for part, published in parts.items():
            cls: Any = AutoencoderKLWan if part == "vae" else WanTransformer3DModel
            assert count(cls.from_config(cls.load_config(folder_of(name) / part))) == pytest.approx(published, rel=0.01)
        encoder = UMT5EncoderModel(AutoConfig.from_pretrained(folder_of(name) / "text_encoder"))
    assert count(encoder) == pytest.approx(5.68e9, rel=0.01)


def test_a_shrunk_model_keeps_its_kinds_of_layers_and_its_heads() -> None:
    oss = transformers_values(folder_of("gpt-oss-120b"), Shrink.parse(TINY | {"experts": 4}))
    assert oss["layer_types"] == ["sliding_attention", "full_attention"]
    assert (oss["head_dim"], oss["num_attention_heads"], oss["num_key_value_heads"], oss["hidden_size"]) == (64, 4, 1, 180)
    assert (oss["num_local_experts"], oss["num_experts_per_tok"]) == (4, 2)
    deepseek = transformers_values(folder_of("deepseek-r1"), Shrink.parse(TINY | {"experts": 8}))
    assert deepseek["first_k_dense_replace"] == 1  # one layer of each kind
    assert (deepseek["n_group"], deepseek["topk_group"], deepseek["num_experts_per_tok"]) == (4, 2, 4)
    assert (deepseek["qk_rope_head_dim"], deepseek["kv_lora_rank"]) == (64, 32)
    qwen = transformers_values(folder_of("qwen3-vl-235b-a22b"), Shrink.parse(TINY))
    assert sum(qwen["text_config"]["rope_scaling"]["mrope_section"]) == qwen["text_config"]["head_dim"] // 2
    assert qwen["vision_config"]["deepstack_visual_indexes"] == [0, 1]
    assert qwen["vision_config"]["out_hidden_size"] == qwen["text_config"]["hidden_size"] == 256
    wan = diffusers_values(folder_of(WAN), Shrink.parse({"layers": 2, "width": 0.05}))
    assert wan["transformer"]["text_dim"] == wan["text_encoder"]["d_model"]
    assert wan["transformer"]["num_attention_heads"] == 2


@pytest.mark.parametrize(
    ("name", "shrink", "message"),
    [
        ("llama2-70b", {"width": "1/100"}, r"shrink.width is 1/100, which leaves 81.92 of hidden_size = 8192; .*such as 1/4"),
        (WAN, {"width": "1/16"}, "leaves 2.5 of num_attention_heads = 40"),
        ("llama2-70b", {"width": "wide"}, "shrink.width is 'wide'; give a fraction"),
        ("llama2-70b", {"width": 2}, "above 0 and at most 1"),
        ("llama2-70b", {"layers": 81}, "num_hidden_layers is 80 as published"),
        ("llama2-70b", {"layers": 0}, "shrink.layers is 0; give a positive whole number"),
        ("deepseek-r1", {"layers": 1}, "one dense and one with experts"),
        ("llama2-70b", {"experts": 4}, "this architecture has none"),
        ("gpt-oss-120b", {"experts": 129}, "it must be from 2 to 128"),
        ("gpt-oss-120b", {"vocabulary": 100}, "it must be from 300 to 201088"),
        ("gpt-oss-120b", {"depth": 2}, "unknown factor 'depth'.*known: experts, layers, vocabulary, width"),
        (WAN, {"experts": 2}, "its layers have no experts"),
    ],
)
def test_an_impossible_factor_is_named(name: str, shrink: Mapping[str, Any], message: str) -> None:
    read: Any = diffusers_values if name == WAN else transformers_values
    with pytest.raises(ConfigError, match=message):
        read(folder_of(name), Shrink.parse(shrink))


def test_the_same_architecture_is_the_same_network_each_time_and_leaves_the_callers_seed_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second = (
        language_model(AutoModelForCausalLM, "x", "gpt-oss-120b", TINY | {"experts": 4}, CPU, torch.float32, None).model for _ in range(2)
    )
    assert torch.rand(1) == expected
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True))
    assert first.model.layers[0].mlp.experts.gate_up_proj.std().item() == pytest.approx(0.02, rel=0.05)


def test_parts_of_diffusers_are_drawn_in_the_requested_dtype_except_those_kept_in_float32() -> None:
    values = diffusers_values(folder_of(WAN), Shrink.parse({"layers": 1, "width": "1/20"}))["transformer"]
    drawn = draw_diffusers(WanTransformer3DModel, values, CPU, torch.bfloat16)
    assert drawn.blocks[0].attn1.to_q.weight.dtype == torch.bfloat16
    assert drawn.blocks[0].scale_shift_table.dtype == torch.float32
    assert not any(p.is_meta or not p.isfinite().all() for p in drawn.parameters())
    assert not any(b.is_meta for b in drawn.buffers())


def test_every_text_can_be_encoded_and_every_token_decoded() -> None:
    tokenizer = byte_tokenizer(320)
    text = "A kite, 40\n <b>\u00e9\u4e16\U0001f600"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert sorted(tokenizer.get_vocab().values()) == list(range(320))
    assert all(tokenizer.decode([i]) for i in range(320))


@pytest.mark.parametrize(
    ("pipeline", "options", "message"),
    [
        (TransformersLLM, {"weights": "random"}, "weights: random needs an architecture: one of deepseek-r1, gpt-oss-120b"),
        (TransformersVLM, {"shrink": {"layers": 2}}, "shrink needs weights: random"),
        (DiffusersT2V, {"weights": "random", "architecture": "wan2.2"}, r"unknown architecture 'wan2.2' \(did you mean"),
    ],
)
def test_an_option_without_effect_is_refused(pipeline: type[Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pipeline(**options)


def test_an_architecture_of_the_other_panel_is_refused() -> None:
    with pytest.raises(ConfigError, match="is a 'qwen3_vl_moe', which is not a CausalLM"):
        TransformersLLM(weights="random", architecture="qwen3-vl-235b-a22b", shrink=dict(TINY)).load(CPU)


def test_a_checkpoint_of_another_architecture_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model 'embedded' is not of architecture 'llama3\.1-8b': its hidden_size is"):
        TransformersLLM(architecture="llama3.1-8b").load(CPU)


@pytest.mark.feature("transformers_llm", "random weights of a published architecture")
def test_a_random_model_is_described_in_its_effective_settings() -> None:
    options = {"weights": "random", "architecture": "llama3.1-8b", "shrink": dict(TINY), "chat": False}
    pipeline = TransformersLLM(batching="static", max_new_tokens=4, context=64, **options)  # type: ignore[arg-type]
    pipeline.load(CPU)
    [answer] = pipeline.generate([Sample(0, "Why?")], [Query(id=0, sample_index=0, seed=1)])
    pipeline.close()
    assert answer.error is None
    assert answer.num_units >= 1
    effective = pipeline.effective()
    assert (effective["weights"], effective["architecture"], effective["tokenizer"]) == ("random", "llama3.1-8b", "bytes, made on the spot")
    assert effective["shrink"] == "layers 2, width 1/16, vocabulary 320"


def test_architectures_hold_figures_and_no_weights() -> None:
    assert {path.suffix for path in ARCHITECTURES.rglob("*") if path.is_file()} == {".json", ".md"}
