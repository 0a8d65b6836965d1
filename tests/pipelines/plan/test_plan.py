"""Plans as a whole: published results, layouts, devices, and what cannot be planned."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from configs.errors import ConfigError
from configs.load_config import load_config, parse_config
from configs.registry import register
from pipelines.base import StreamingPipeline
from pipelines.models import architectures
from pipelines.plan.device_peaks import find_device, read_devices
from pipelines.plan.language import Job
from pipelines.plan.plan import PlanRequest, plan
from pipelines.plan.roofline import Candidate, Layout
from tests.configs.test_presets import SCENARIOS
from tests.pipelines.plan.plans import planned

# MLPerf's results, v6.0 and v6.1 (docs/mlperf.md): eight devices, in the submitted precision. Prompts are set to one token, which leaves
# their work out and makes the ceiling too high.
PUBLISHED: list[tuple[Any, ...]] = [
    ("llm/llama2-70b", "mi355x", "mxfp4", "fp8", {"batch": 3392, "input_tokens": 1, "output_tokens": 294}, (), 106_517, 0.1),
    ("llm/llama2-70b", "mi325x", "fp8", "fp8", {"batch": 1024, "input_tokens": 1, "output_tokens": 294}, (), 33_880, 0.1),
    ("llm/gpt-oss-120b", "mi355x", "mxfp4", "fp8", {"batch": 1792, "input_tokens": 1, "output_tokens": 1278}, (), 121_818, 0.05),
    ("t2v/wan2.2-t2v-a14b", "mi355x", "mxfp4", "fp8", {}, (), 0.0731282, 0.3),
    ("t2v/wan2.2-t2v-a14b", "mi355x", "mxfp4", "fp8", {}, ("parallel.cfg=2", "parallel.context=4"), 1 / 16.124, 0.3),
    ("t2v/wan2.2-t2v-a14b", "b300", "nvfp4", "fp8", {}, ("parallel.cfg=2", "parallel.context=4"), 1 / 20.898, 0.2),
    ("t2v/wan2.2-t2v-a14b", "h200", "fp8", "fp8", {}, ("parallel.cfg=2", "parallel.context=4"), 1 / 57.402, 0.2),
]


def _marked(preset: str, *rest: Any) -> Any:
    """Tracing Wan 2.2 takes ten seconds: once, in one worker, and not in every run."""
    return pytest.param(preset, *rest, marks=[pytest.mark.slow, pytest.mark.xdist_group("plan")] if preset.startswith("t2v/") else [])


@pytest.mark.parametrize(
    ("preset", "device", "precision", "attention", "lengths", "layout", "published", "share"), [_marked(*case) for case in PUBLISHED]
)
def test_published_results_are_below_the_ceiling_and_not_far_below(
    preset: str,
    device: str,
    precision: str,
    attention: str,
    lengths: dict[str, int],
    layout: tuple[str, ...],
    published: float,
    share: float,
) -> None:
    result = planned(preset, device, layout, precision=precision, attention=attention, **lengths).chosen
    assert result.ceiling is not None
    assert share < published / result.ceiling.value <= 1


@pytest.mark.parametrize("device", ["mi355x", "mi325x"])
@pytest.mark.parametrize(("preset", "scenario"), [_marked(p, s) for p, scenarios in SCENARIOS.items() for s in scenarios])
def test_the_presets_layouts_fit_their_machines(preset: str, scenario: str, device: str) -> None:
    config = load_config(None, preset, scenario=scenario, variant=f"8x{device}")
    result = plan(config, preset, PlanRequest(device)).chosen
    assert result.fits, result.over_bytes
    assert result.replicas * result.layout.size == 8
    assert result.batch == config.pipeline_options["batch_size"]


@register("planned_engine")
@dataclass
class PlannedEngine(StreamingPipeline):
    """An engine of which a plan needs the options alone, which have vLLM's names."""

    architecture: str
    dtype: str = "auto"
    quantization: str | None = None
    kv_cache_dtype: str = "auto"
    max_model_len: int | None = None
    max_num_batched_tokens: int | None = None
    max_new_tokens: int = 256
    batch_size: int = 64

    workloads: ClassVar[tuple[str, ...]] = ("llm",)
    parallelism: ClassVar[tuple[str, ...]] = ("tensor",)

    def load(self, device: torch.device) -> None:
        raise NotImplementedError

    def submit(self, samples: Sequence[Any], queries: Sequence[Any]) -> None:
        raise NotImplementedError

    def step(self, timeout_s: float) -> Sequence[Any]:
        raise NotImplementedError

    def effective(self) -> dict[str, str]:
        return {}


def engine(architecture: str, **options: Any) -> str:
    return f"pipeline={json.dumps({'name': 'planned_engine', 'architecture': architecture, **options})}"


@pytest.mark.parametrize("device", ["mi355x", "mi325x"])
@pytest.mark.parametrize(
    ("preset", "options", "weights", "kv_bytes"),
    [
        ("llm/deepseek-r1", {"quantization": "fp8", "max_model_len": 24576, "max_new_tokens": 20000}, 8, 2),
        (
            "llm/deepseek-r1",
            {"quantization": "mxfp4", "kv_cache_dtype": "fp8_e4m3", "max_model_len": 24576, "max_new_tokens": 20000},
            4.25,
            1,
        ),
        ("vlm/qwen3-vl-235b-a22b", {"quantization": "fp8", "kv_cache_dtype": "fp8", "max_model_len": 16384, "max_new_tokens": 512}, 8, 1),
    ],
)
def test_precisions_come_from_the_engines_options(preset: str, options: dict[str, Any], weights: float, kv_bytes: int, device: str) -> None:
    change = engine(preset.partition("/")[2], batch_size=64, **options)
    result = planned(preset, device, (change, "parallel.tensor=8"))
    assert result.chosen.fits
    assert (result.chosen.precision, result.request.attention) == (options["quantization"], "fp8" if kv_bytes == 1 else "bf16")
    wide = planned(preset, device, (change, "parallel.tensor=8"), precision="bf16", attention="bf16")
    assert result.chosen.memory["weights"] / wide.chosen.memory["weights"] == pytest.approx(weights / 16, abs=0.02)
    assert result.chosen.memory["kv_cache"] / wide.chosen.memory["kv_cache"] == pytest.approx(kv_bytes / 2, rel=1e-6)
    assert isinstance(result.job, Job)
    assert result.job.tokens_at_once <= options["max_model_len"]  # prompts are worked on by pieces, not all at once


def test_tokens_at_once_come_from_the_engines_options() -> None:
    change = engine("llama3.1-8b", max_model_len=4096, max_num_batched_tokens=777)
    job = planned("llm/llama3.1-8b", "mi355x", (change,)).job
    assert isinstance(job, Job)
    assert job.tokens_at_once == 777


def test_a_plan_that_does_not_fit_has_the_excess_and_what_would_fit() -> None:
    result = planned("vlm/qwen3-vl-235b-a22b", "mi355x")
    assert not result.chosen.fits
    assert result.chosen.over_bytes == result.chosen.total_bytes - result.device.usable_bytes > 0
    assert [str(c) for c in result.would_fit] == ["bf16 on tensor 2", "fp8 on one device"]
    assert any("cannot split" in note for note in planned("vlm/qwen3-vl-235b-a22b", "mi355x", ("parallel.tensor=2",)).notes)


@pytest.mark.parametrize(
    ("preset", "options", "changes", "message"),
    [
        ("llm/llama3.1-8b", {"device": "mi355"}, (), "unknown device 'mi355' (did you mean 'mi355x'?); known: b200, b300"),
        ("llm/llama3.1-8b", {"device": "h100", "precision": "fp9"}, (), "unknown precision 'fp9' (did you mean 'fp8'?); known: bf16"),
        ("llm/llama3.1-8b", {"device": "h100", "batch": 0}, (), "--batch must be positive, got 0"),
        ("llm/llama3.1-8b", {"device": "h100", "devices": 3}, ("parallel.tensor=2",), "3 devices do not make whole replicas of 2"),
        ("llm/llama3.1-8b", {"device": "h100"}, ("parallel.cfg=2",), "a language model is split by parallel.tensor alone"),
        ("llm/llama3.1-8b", {"device": "h100", "input_tokens": 10**6}, (), "over the model's 131,072"),
        ("t2v/embedded", {"device": "h100"}, ("parallel.tensor=2",), "a video model is split by parallel.context and parallel.cfg"),
        (
            "t2v/embedded",
            {"device": "h100"},
            ("pipeline.quantisation={name: round, bits: 8}",),
            "give a precision to plan with",
        ),
        (
            "llm/llama3.1-8b",
            {"device": "h100"},
            ("pipeline={name: planned_engine, architecture: llama3.1-8b, quantization: quark}",),
            "pipeline.quantization is 'quark'; give a precision to plan with: --precision, one of fp32",
        ),
        (
            "llm/llama3.1-8b",
            {"device": "h100"},
            ("pipeline={name: planned_engine, architecture: llama3.1-8b, kv_cache_dtype: int4}",),
            "pipeline.kv_cache_dtype is 'int4'; give a precision to plan with: --attention",
        ),
        ("llm/toy", {"device": "h100"}, (), "'llm/toy' has no model to plan for: pipeline 'toy_llm' has none"),
        ("llm/embedded", {"device": "h100"}, ("pipeline.model=meta/any",), "a plan downloads nothing; name its architecture"),
    ],
)
def test_what_cannot_be_planned_is_one_message(preset: str, options: dict[str, Any], changes: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(load_config(None, preset, list(changes)), preset, PlanRequest(**options))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_shipped_device_has_the_figures_of_a_plan() -> None:
    for name, device in read_devices().items():
        assert (
            device.flops_per_s("fp32") < device.flops_per_s("bf16") < device.flops_per_s("fp8") <= 2 * device.flops_per_s("bf16") * 1.001
        ), name
        assert device.computes_in("mxfp4") == ("fp4" if "fp4" in device.tflops else "bf16"), name


def test_a_devices_file_adds_devices_and_its_mistakes_are_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("mine: {memory_gib: 48, memory_gb_s: 900, link_gb_s: 32, host_gb_s: 32, tflops: {bf16: 180}}\n", encoding="utf-8")
    assert find_device("mine", file).memory_gib == 48
    assert find_device("h100", file).memory_gib == 80
    assert (
        "mine has no unit for fp8: weights in fp8 are computed in bf16"
        in planned("llm/llama3.1-8b", "mine", precision="fp8", devices_file=file).notes
    )
    file.write_text("mine: {memory_gb: 48}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"device 'mine': .*memory_gib"):
        read_devices(file)


def test_a_local_folder_is_planned_by_its_own_config(tmp_path: Path) -> None:
    values = architectures.read(architectures.folder_of("llama3.1-8b")) | {"num_hidden_layers": 1, "num_key_value_heads": 4}
    (tmp_path / "config.json").write_text(json.dumps(values), encoding="utf-8")
    config = parse_config({"workload": "llm", "pipeline": {"name": "transformers_llm", "model": str(tmp_path)}}, "mine.yaml")
    result = plan(config, "mine.yaml", PlanRequest("h100", devices=1))
    assert result.figures["kv_bytes_per_token"] == 2 * 4 * 128 * 2
    assert {c.layout for c in result.candidates} == {Layout()}


def test_a_candidate_over_its_memory_does_not_fit() -> None:
    one = Candidate("bf16", Layout(), 1, 1, usable_bytes=10, memory={"weights": 8, "kv_cache": 5})
    assert (one.total_bytes, one.over_bytes, one.fits) == (13, 3, False)
    assert Layout(cfg=2, context=4, offload=True).size == 8
    assert str(Layout(cfg=2, context=4, offload=True)) == "cfg 2, context 4, offload"
