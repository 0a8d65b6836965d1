"""What tests of vLLM share: its pipeline on a CPU, a small Llama, and devices that torch is led to believe in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipelines.vllm.pipeline import Vllm
from tests.pipelines.vllm.vllm_pipeline import CPU


@pytest.fixture
def loaded() -> Iterator[Callable[..., Vllm]]:
    """vLLM's pipeline on a CPU. One engine at a time: the one before is closed."""
    pipelines: list[Vllm] = []

    def load(**options: Any) -> Vllm:
        for earlier in pipelines:
            earlier.close()
        speaks = options.pop("speaks", False)
        pipelines.append(Vllm(**{"max_new_tokens": 24, "batch_size": 4, **options}))
        pipelines[-1].speaks = speaks
        pipelines[-1].load(CPU)
        return pipelines[-1]

    yield load
    for pipeline in pipelines:
        pipeline.close()


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 heads of 32, 2 key-value heads, random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from pipelines.embedded.training.llm.train import world_tokenizer

    torch.manual_seed(0)
    tokenizer = world_tokenizer(0)
    shape: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(
        vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, max_position_embeddings=256, num_key_value_heads=2, **shape
    )
    folder = tmp_path_factory.mktemp("tiny-llama")
    model: Any = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def device_is(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes torch report its device as one of this architecture."""

    def be(architecture: str) -> None:
        major, minor = (9, 0) if not architecture.startswith("sm_") else (int(architecture[3:-1]), int(architecture[-1]))
        device = SimpleNamespace(gcnArchName=f"{architecture}:xnack-", major=major, minor=minor)
        monkeypatch.setattr(torch.version, "hip", "7.2.4" if architecture.startswith("gfx") else None)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: device)

    return be
