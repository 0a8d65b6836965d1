"""The engine of a run whose command names none."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch

from configs.load_config import load_config
from configs.run_config import RunConfig
from pipelines.launcher.default_engine import with_default_engine

CHECKPOINT = "pipeline.model=/models/Llama-3.1-8B-Instruct"


def chosen(*changes: str, workload: str = "llm") -> RunConfig:
    return with_default_engine(load_config(workload, None, changes), changes)


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: object() if name == "vllm" else real(name, *a))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize("workload", ["llm", "vlm"])
def test_a_checkpoint_on_a_gpu_runs_in_vllm_where_it_is_installed(workload: str) -> None:
    config = chosen(CHECKPOINT, "pipeline.max_new_tokens=64", workload=workload)
    assert config.pipeline_name == "vllm"
    assert config.pipeline_options["max_new_tokens"] == 64
    assert "batching" not in config.pipeline_options  # of the preset's own engine
    assert str(config.engine_because).startswith("vllm is installed, and the default for a checkpoint on a GPU")


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize(
    ("changes", "because"),
    [
        ((), None),  # the embedded model
        (("pipeline.name=transformers_llm", CHECKPOINT), None),
        ((CHECKPOINT, "pipeline.batching=static"), "transformers_llm, the workload's default: vllm has no option 'batching'"),
    ],
)
def test_what_the_command_says_wins(changes: tuple[str, ...], because: str | None) -> None:
    config = chosen(*changes)
    assert (config.pipeline_name, config.engine_because) == ("transformers_llm", because)


def test_the_reason_is_said_where_vllm_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def because(**patches: Any) -> str | None:
        for name, value in patches.items():
            monkeypatch.setattr(torch.cuda if name == "is_available" else importlib.util, name, value)
        return chosen(CHECKPOINT).engine_because

    assert because(find_spec=lambda name: None) == "transformers_llm, the workload's default: vllm is not installed"
    assert because(find_spec=lambda name: object(), is_available=lambda: False) == (
        "transformers_llm, the workload's default: there is no GPU for vllm"
    )
