"""LoRA adapters: effective in the layers that hold them, refused by name where they cannot be used."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from configs.load_config import load_config
from configs.registry import make
from pipelines.diffusers.t2v import DiffusersT2V
from tests.pipelines.diffusers.conftest import CPU
from tests.pipelines.diffusers.speedups.conftest import generate, load, refusal
from workloads.records import Query, Sample
from workloads.t2v import draw_captions
from workloads.world.checker import check_clip


@pytest.fixture(scope="module")
def lora(tiny_wan: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters of rank 2 for the first expert's self-attention, as diffusers saves them."""
    from diffusers import WanPipeline, WanTransformer3DModel

    denoiser = WanTransformer3DModel.from_pretrained(tiny_wan, subfolder="transformer")
    generator = torch.Generator().manual_seed(0)
    layers = {}
    for name, module in denoiser.named_modules():
        if name.endswith(("attn1.to_q", "attn1.to_v")):
            layers[f"{name}.lora_A.weight"] = torch.randn(2, module.in_features, generator=generator)
            layers[f"{name}.lora_B.weight"] = torch.randn(module.out_features, 2, generator=generator)
    folder = tmp_path_factory.mktemp("lora")
    WanPipeline.save_lora_weights(str(folder), transformer_lora_layers=layers, weight_name="few-steps.safetensors")
    return folder / "few-steps.safetensors"


@pytest.mark.feature("diffusers_t2v", "LoRA adapters")
def test_an_adapter_changes_the_clip_by_its_scale_fused_or_not(tiny_wan: Path, lora: Path, plain: Any) -> None:
    apart, fused = (load(tiny_wan, lora={"path": str(lora), "scale": 0.5, "fuse": fuse}) for fuse in (False, True))
    text = "few-steps.safetensors x 0.5 in 4 layers of transformer, rank 2"
    assert [p.effective()["lora"] for p in (apart, fused)] == [text, f"{text}, fused"]
    assert [p.fallbacks() for p in (apart, fused)] == [[], []]
    assert np.abs(generate(apart) - plain[:1]).max() > 1
    assert np.abs(generate(apart) - generate(fused)).max() <= 1
    assert np.abs(generate(load(tiny_wan, lora={"path": str(lora), "scale": 0.0})) - plain[:1]).max() <= 1


@pytest.mark.feature("diffusers_t2v", "LoRA distilled into two steps", note="the embedded model's own")
def test_the_distilled_adapter_makes_correct_clips_in_two_steps() -> None:
    config = load_config(None, "t2v/embedded-two-steps", ["dataset.num_prompts=8"])
    prompts = [text for _, text in draw_captions("simple", 8, "any")]

    def num_correct(**changes: Any) -> int:
        pipeline: DiffusersT2V = make("pipelines", "diffusers_t2v", config.pipeline_options | {"batch_size": 8} | changes)
        pipeline.load(CPU)
        responses = pipeline.generate([Sample(i, p) for i, p in enumerate(prompts)], [Query(i, i, i) for i in range(8)])
        assert pipeline.fallbacks() == []
        clips = [r.video_THWC for r in responses]
        return sum(all(check_clip(clip, p).values()) for clip, p in zip(clips, prompts, strict=True) if clip is not None)

    assert num_correct() >= 6
    assert num_correct(lora=None) <= 3


def test_an_adapter_goes_into_the_denoiser_that_is_named(tiny_wan: Path, lora: Path) -> None:
    pipeline = load(tiny_wan, lora=[{"path": str(lora), "denoiser": "transformer_2"}])
    assert pipeline.effective()["lora"].endswith("in 4 layers of transformer_2, rank 2")
    assert not any("lora" in name for name, _ in pipeline._pipe.transformer.named_modules())


def test_a_disabled_adapter_is_a_fallback(tiny_wan: Path, lora: Path) -> None:
    pipeline = load(tiny_wan, lora=str(lora))
    pipeline._pipe.transformer.disable_adapters()
    assert pipeline.fallbacks() == [f"option lora: {lora} is active in no layer of transformer"]


def test_an_adapter_that_cannot_be_used_is_refused_by_name(tiny_wan: Path, lora: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(lora.read_bytes()[:200])
    cases: list[tuple[Any, str]] = [
        ("gone.safetensors", "file 'gone.safetensors' does not exist"),
        ("lora.bin", "is a pickle, which can run code"),
        (str(damaged), f"{str(damaged)!r} cannot be used in 'transformer'"),
        ({"path": str(lora), "denoiser": "unet"}, "denoiser is 'unet', but the model has transformer, transformer_2"),
        ({"path": str(lora), "strength": 1}, "unknown option 'strength'"),
    ]
    for given, why in cases:
        assert why in refusal(functools.partial(load, tiny_wan, lora=given))


@pytest.mark.parametrize(
    ("rename", "why"),
    [
        (lambda name: name.replace("lora_B", "lora_A_2"), "1 of the network's tensors are missing: blocks.0.attn1.to_q.lora_B.weight"),
        (lambda name: name.replace("blocks.0", "blocks.7"), "1 tensors are not part of the network: blocks.7.attn1.to_q.lora_B.weight"),
        (lambda name: f"text_encoder.{name}", "1 tensors are not part of the network: text_encoder.transformer.blocks.0"),
    ],
)
def test_an_adapter_fits_its_layers_tensor_by_tensor(tiny_wan: Path, lora: Path, tmp_path: Path, rename: Any, why: str) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(lora)
    name = next(name for name in tensors if name.endswith("blocks.0.attn1.to_q.lora_B.weight"))
    tensors[rename(name)] = tensors.pop(name)
    save_file(tensors, tmp_path / "other.safetensors", {"format": "pt"})
    assert why in refusal(functools.partial(load, tiny_wan, lora=str(tmp_path / "other.safetensors")))
