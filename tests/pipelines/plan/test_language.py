"""Plans of language models: parameters, FLOPs, memory and times, from published figures, torch's counter and by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipelines.plan.device_peaks import Device
from pipelines.plan.language import Attention, Job, LanguageModel
from pipelines.plan.modules import build
from pipelines.plan.roofline import Layout, Roof
from tests.pipelines.plan.plans import config_of, planned

# What one device of round numbers can do: a GB and a GFLOP take a second at bandwidth and in bf16.
ROUND = Device(memory_gib=1, memory_gb_s=1, link_gb_s=1, host_gb_s=1, tflops={"bf16": 0.001, "fp8": 0.002})


def a_model(**changes: Any) -> LanguageModel:
    """Two layers of one head of keys, 1,000 weights in them, a vocabulary of 10 by 10 numbers."""
    layer = Attention(num_kv_heads=1, kv_width=20, prefill_macs=20, decode_macs=20, window=None)
    counts: dict[str, Any] = {"experts": 0, "linear": 1000, "router": 0, "embedding": 100, "head": 100, "vision": 0, "other": 10}
    sizes: dict[str, Any] = {"hidden": 10, "widest": 40, "vocabulary": 10, "attention": [layer, layer], "num_heads": 2}
    values: dict[str, Any] = {"name": "hand-made", "active_share": 1.0, "tied": False, "image": None, **counts, **sizes}
    return LanguageModel(**values | changes)


@pytest.mark.parametrize(
    ("name", "total", "active", "digits", "with_embedding"),
    [
        ("llama2-70b", 68.98, 68.98, 2, True),
        ("llama3.1-8b", 8.03, 8.03, 2, True),
        ("gpt-oss-120b", 116.83, 5.13, 2, False),
        ("deepseek-r1", 671, 37, 0, False),
        ("qwen3-vl-235b-a22b", 236, 22, 0, True),
    ],
)
def test_parameters_are_the_published_ones(name: str, total: float, active: float, digits: int, with_embedding: bool) -> None:
    model = build(config_of(name), name)
    counted = (model.active_parameters + (model.embedding if with_embedding else 0)) / 1e9
    assert model.parameters / 1e9 == pytest.approx(total, rel=0.01)
    assert round(counted, digits) == pytest.approx(active, rel=0.01)


@pytest.mark.parametrize(("name", "experts"), [("llama2-70b", None), ("gpt-oss-120b", 4), ("deepseek-r1", 8), ("qwen3-vl-235b-a22b", 4)])
def test_flops_of_a_prompt_are_those_that_torch_counts(name: str, experts: int | None) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    tokens = 48
    config = config_of(name, layers=2, width="1/16", vocabulary=512, **({"experts": experts} if experts else {}))
    kind: Any = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
    real = kind.from_config(config, attn_implementation="eager", experts_implementation="eager").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        real(input_ids=torch.arange(tokens)[None] + 3, logits_to_keep=1)
    model = build(config, name)
    all_pairs = sum(a.prefill_macs for a in model.attention) * tokens**2  # eager attention computes what it then masks, too
    assert counter.get_total_flops() == pytest.approx(2 * (model.body_macs * tokens + model.head + all_pairs), rel=0.01)


def test_flops_of_an_image_are_those_that_torch_counts() -> None:
    from transformers import AutoModelForImageTextToText

    config = config_of("qwen3-vl-235b-a22b", layers=2, width="1/16", experts=4, vocabulary=512)
    config.vision_config.num_position_embeddings = 16**2
    real = AutoModelForImageTextToText.from_config(config, attn_implementation="eager").eval()
    vision, model = config.vision_config, build(config, "shrunk")
    pixels = torch.zeros(16**2, vision.in_channels * vision.temporal_patch_size * vision.patch_size**2)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        real.model.visual(pixels, grid_thw=torch.tensor([[1, 16, 16]]))
    assert model.image is not None
    assert model.image.tokens == 64
    assert counter.get_total_flops() == pytest.approx(model.image_flops, rel=0.01)


def test_memory_is_counted_by_hand() -> None:
    model = a_model()
    job = Job(batch=3, input_tokens=6, output_tokens=4, tokens_at_once=6)
    one = model.candidate(job, "bf16", Layout(), 2, ROUND)
    assert one.memory["weights"] == 2 * (1000 + 100 + 100 + 10)
    assert one.memory["kv_cache"] == 3 * 10 * 2 * 20 * 2  # queries, tokens, layers, numbers, bytes
    assert one.replicas == 2
    assert model.candidate(job, "fp8", Layout(), 2, ROUND).memory["weights"] == 1000 + 2 * (100 + 100 + 10)
    assert model.candidate(job, "mxfp4", Layout(), 2, ROUND).memory["weights"] == pytest.approx(1000 * 4.25 / 8 + 420, abs=1)
    split = model.candidate(job, "bf16", Layout(tensor=2), 2, ROUND)
    assert split.memory["weights"] == (1000 + 200) + 2 * 10
    assert split.memory["kv_cache"] == one.memory["kv_cache"]  # one head of keys is on both
    assert a_model(tied=True).parameters == 1000 + 100 + 10


def test_a_sliding_window_keeps_and_reads_no_more_than_its_size() -> None:
    full, near = (Attention(1, 10, 1, 1, window) for window in (None, 3))
    assert (full.kept(5), near.kept(5), near.kept(2)) == (5, 3, 2)
    assert (full.pairs(5), near.pairs(5), near.pairs(2)) == (15, 1 + 2 + 3 + 3 + 3, 3)


def test_latents_of_latent_attention_are_on_every_device() -> None:
    model = build(config_of("deepseek-r1"), "deepseek-r1")
    assert model.kv_bytes(1, "bf16") == model.kv_bytes(1, "bf16", tensor=8) == 61 * (512 + 64) * 2


def test_few_queries_read_few_experts() -> None:
    model = a_model(experts=8000, active_share=0.25, linear=0, head=0, other=0)
    assert model.touched_bytes("bf16", 1) == 2 * 8000 * 0.25
    assert model.touched_bytes("bf16", 2) == 2 * 8000 * (1 - 0.75**2)


def test_a_decoded_token_takes_as_long_as_its_slower_limit() -> None:
    model = a_model(linear=10**9, attention=[])
    alone, many = (model._decode(Job(batch, 1, 1, 1), "bf16", 1, ROUND) for batch in (1, 10))
    assert alone == pytest.approx(Roof(2.0, 2.0), rel=1e-6)
    assert many == pytest.approx(Roof(20.0, 2.0), rel=1e-6)
    assert many.bound == "compute"
    assert model._decode(Job(1, 1, 1, 1), "fp8", 1, ROUND) == pytest.approx(Roof(1.0, 1.0), rel=1e-6)


def test_largest_batch_is_the_one_that_just_fits() -> None:
    largest = planned("llm/llama2-70b", "mi355x").chosen.max_batch
    assert largest is not None
    plans = [planned("llm/llama2-70b", "mi355x", (f"pipeline.batch_size={n}",)) for n in (largest, largest + 1)]
    assert [plan.chosen.fits for plan in plans] == [True, False]
