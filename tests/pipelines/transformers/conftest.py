"""Small vision-language checkpoints with random weights, and questions for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.embedded.training.vlm.model import END_ID, IMAGE_ID, build_model, build_tokenizer, save
from workloads.records import Sample
from workloads.vlm import VisionLanguage


@pytest.fixture(scope="session")
def tiny_qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen3-VL of the embedded model's shape with random weights."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny-qwen")
    save(build_model(), build_tokenizer(["what colour is it?", "red", "blue"]), folder)
    return folder


@pytest.fixture(scope="session")
def tiny_llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA with random weights: a model whose processor the library can build without torchvision."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = CLIPVisionConfig(image_size=24, patch_size=6, projection_dim=32, **sizes)
    config = LlavaConfig(vision_config=vision, text_config=LlamaConfig(vocab_size=512, **sizes), image_token_index=IMAGE_ID)
    model: Any = LlavaForConditionalGeneration(config)
    model.generation_config.update(eos_token_id=END_ID, pad_token_id=0)
    images = CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24})
    settings: dict[str, Any] = {"patch_size": 6, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    template = (
        "{% for m in messages %}{% for p in m.content %}{{ '<|image_pad|>' if p.type == 'image' else p.text }}{% endfor %}{% endfor %}"
    )
    processor: Any = LlavaProcessor(images, build_tokenizer(["red"]), chat_template=template, image_token="<|image_pad|>", **settings)
    folder = tmp_path_factory.mktemp("tiny-llava")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def samples() -> Sequence[Sample]:
    return VisionLanguage(num_prompts=8).samples()
