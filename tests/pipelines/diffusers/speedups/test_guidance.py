"""Both guidance passes of a step in one batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from configs.registry import make
from configs.settings import ParallelSettings
from pipelines.diffusers.speedups import guidance
from pipelines.diffusers.t2v import DiffusersT2V
from pipelines.distributed.replica import Replica
from tests.pipelines.diffusers.conftest import CPU, SMALL
from tests.pipelines.diffusers.speedups.conftest import EMBEDDED, generate, load, refusal


@pytest.mark.feature("diffusers_t2v", "guidance passes in one batch")
def test_both_guidance_passes_in_one_batch_give_the_same_clips_in_half_the_calls(tiny_wan: Path, plain: Any) -> None:
    pipeline, calls = load(tiny_wan, guidance_batch=True, batch_size=2), []
    for expert in (pipeline._pipe.transformer, pipeline._pipe.transformer_2):
        expert.blocks[0].register_forward_hook(lambda _m, inputs, _o: calls.append(len(inputs[0])))
    assert np.abs(generate(pipeline, 2) - plain).max() <= 1
    assert calls == [4] * SMALL["num_inference_steps"]  # two clips, each with a caption and without
    assert (pipeline.effective()["guidance"], pipeline.fallbacks()) == ("both passes in one batch", [])


def test_one_batch_for_both_passes_can_be_combined_with_a_cache(tiny_wan: Path) -> None:
    pipeline = load(
        tiny_wan, guidance_batch=True, cache={"name": "pyramid_attention_broadcast", "spatial_attention_timestep_skip_range": [-1, 1000]}
    )
    assert np.abs(generate(pipeline) - generate(load(tiny_wan))).max() > 0
    assert "work skipped" in pipeline.effective()["cache"]
    assert pipeline.fallbacks() == []


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"guidance_scale": 1.0}, "option 'guidance_batch' is on, but with guidance_scale 1.0 there is no second guidance pass"),
        (
            {"replica": Replica(ParallelSettings.model_validate({"cfg": 2}))},
            "cannot be combined with parallel.cfg 2",
        ),
    ],
)
def test_one_batch_is_refused_where_there_are_no_two_passes_to_join(tiny_wan: Path, options: dict[str, Any], why: str) -> None:
    replica = options.pop("replica", Replica())
    pipeline: DiffusersT2V = make("pipelines", "diffusers_t2v", {"model": str(tiny_wan), **SMALL, "guidance_batch": True, **options})
    pipeline.replica = replica
    assert why in refusal(lambda: pipeline.load(CPU))


@pytest.mark.parametrize(("together_s", "result"), [(0.5, "one batch"), (0.99, "two passes"), (float("inf"), "two passes")])
def test_on_a_gpu_both_passes_are_one_batch_where_a_trial_says_so(
    tiny_wan: Path, plain: Any, monkeypatch: pytest.MonkeyPatch, together_s: float, result: str
) -> None:
    times = iter((1.0, together_s))
    monkeypatch.setattr(guidance, "chooses", lambda _: True)
    monkeypatch.setattr(guidance, "seconds_each", lambda step, *_: step() is not None and next(times))
    pipeline = load(tiny_wan, batch_size=2)
    effective = pipeline.effective()
    assert effective["guidance_choice"].startswith(f"{result}: a step takes 1e+03 ms with two passes and ")
    assert effective.get("guidance") == ("both passes in one batch" if result == "one batch" else None)
    assert np.abs(generate(pipeline, 2) - plain).max() <= 1
    assert pipeline.fallbacks() == []


def test_a_model_that_cannot_make_one_step_keeps_its_two_passes(tiny_wan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guidance, "chooses", lambda _: True)
    monkeypatch.setattr(DiffusersT2V, "_step", lambda *_: torch.zeros(1 // 0))
    pipeline = load(tiny_wan)
    assert "integer division" in pipeline.effective()["guidance_choice"]
    assert "forward" not in vars(pipeline._pipe.transformer)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"guidance_scale": 1.0}, "does not make two passes a step"),
        ({"cache": {"name": "first_block", "threshold": 0.1}}, "a cache keeps the state of each pass"),
        ({"batch_size": 10_000}, "a pass has more than 16384 tokens"),
    ],
)
def test_there_is_no_trial_of_one_batch_where_it_cannot_help(
    tiny_wan: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], why: str
) -> None:
    monkeypatch.setattr(guidance, "chooses", lambda _: True)
    assert load(tiny_wan, **options).effective()["guidance_choice"] == f"two passes, no trial: {why}".replace(
        "does", "this pipeline does", 1
    )


@pytest.mark.gpu
@pytest.mark.feature("diffusers_t2v", "guidance passes in one batch: chosen by a trial")
def test_a_gpu_tries_both_passes_in_one_batch() -> None:
    pipeline = load("embedded", torch.device("cuda"), **EMBEDDED)
    assert "a step takes " in pipeline.effective()["guidance_choice"]
    generate(pipeline)
    assert pipeline.fallbacks() == []


def test_no_step_with_both_passes_in_one_batch_is_a_fallback(tiny_wan: Path) -> None:
    pipeline = load(tiny_wan, guidance_batch=True)
    assert pipeline.fallbacks() == ["option guidance_batch: no step made both of its passes in one batch"]  # no clip was generated yet
