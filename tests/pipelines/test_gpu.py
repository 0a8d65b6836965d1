"""Behaviour on a GPU. Tests marked `gpu` are skipped where there is none; tests with both devices check the same on a CPU."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from configs.errors import ConfigError
from configs.registry import make
from pipelines.devices.accelerators import ARCHITECTURES, accelerators, architecture, can
from pipelines.devices.power_meters import MeterError, find_meter
from pipelines.diffusers.t2v import DiffusersT2V
from pipelines.transformers.llm import TransformersLLM
from pipelines.transformers.vlm import TransformersVLM
from tests.conftest import QUICK, ROOT, TIMEOUT_S, last_line, read_report
from workloads.llm import Language
from workloads.records import Query, Sample, query_seed

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
SMALL: dict[str, Any] = {
    "num_frames": 9,
    "height": 48,
    "width": 48,
    "num_inference_steps": 4,
    "guidance_scale": 2.0,
    "max_sequence_length": 64,
}
on_gpu = pytest.mark.gpu
feature = pytest.mark.feature
both = pytest.mark.parametrize("device", [pytest.param(CPU, id="cpu"), pytest.param(GPU, id="gpu", marks=on_gpu)])


def video(**options: Any) -> DiffusersT2V:
    pipeline: DiffusersT2V = make("pipelines", "diffusers_t2v", {**SMALL, **options})
    return pipeline


def frames(pipeline: DiffusersT2V, *seeds: int) -> Any:
    samples = [Sample(i, "a red disc moves to the right") for i in range(len(seeds))]
    responses = pipeline.generate(samples, [Query(i, i, seed) for i, seed in enumerate(seeds)])
    return np.stack([r.video_THWC for r in responses if r.video_THWC is not None]).astype(int)


def run_suite(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the suite with this process's devices; the fixture `suite` hides them."""
    env = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")}
    command = [sys.executable, str(ROOT / "suite.py"), *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=TIMEOUT_S)


@on_gpu
def test_the_device_is_reported_with_architecture_and_memory() -> None:
    devices = accelerators()
    assert len(devices) == torch.cuda.device_count()
    properties = torch.cuda.get_device_properties(0)
    assert devices[0]["name"] == properties.name
    assert devices[0]["memory_bytes"] == properties.total_memory > 2**30
    assert re.fullmatch(r"gfx[0-9a-f]+" if torch.version.hip else r"sm_\d+", devices[0]["architecture"])
    assert devices[0]["hardware"] in (None, devices[0]["architecture"]), "HSA_OVERRIDE_GFX_VERSION makes it appear as another"


@pytest.mark.parametrize(
    ("preset", "quality"),
    [
        pytest.param("t2v/embedded", "world_score", marks=feature("diffusers_t2v", "a GPU")),
        pytest.param("llm/embedded", "exact_match", marks=feature("transformers_llm", "a GPU, continuous batching")),
        pytest.param("llm/embedded-moe", "exact_match", marks=feature("transformers_llm", "a GPU, mixture of experts")),
        pytest.param("vlm/embedded", "exact_match", marks=feature("transformers_vlm", "a GPU")),
    ],
)
@on_gpu
def test_an_embedded_panel_is_valid_on_a_gpu(tmp_path: Path, preset: str, quality: str) -> None:
    done = run_suite(tmp_path, "--config", preset, *QUICK)
    assert done.returncode == 0, done.stderr
    report = read_report(done)
    assert (report["verdict"], report["effective"]["dtype"]) == ("VALID", "bfloat16")
    assert report["device"].startswith("1 x cuda")
    assert report["figures"]["peak_device_memory"]["value"] > 2**20
    assert report["figures"][quality]["value"] > 0.3
    system = json.loads((Path(last_line(done)["run"]) / "system.json").read_text(encoding="utf-8"))
    assert system["accelerators"][0]["name"] == torch.cuda.get_device_properties(0).name


@on_gpu
@feature("doctor", "a GPU")
def test_the_doctor_passes_on_a_gpu(tmp_path: Path) -> None:
    done = run_suite(tmp_path, "doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert last_line(done)["headline"]["device_tflops"] > 1


@both
@pytest.mark.parametrize("kind", [DiffusersT2V, TransformersLLM, TransformersVLM])
def test_dtype_auto_is_bfloat16_on_a_gpu_and_float32_on_a_cpu(device: torch.device, kind: type[Any]) -> None:
    pipeline = kind()
    pipeline.load(device)
    try:
        assert pipeline.effective()["dtype"] == ("float32" if device.type == "cpu" else "bfloat16")
        assert list(pipeline.fallbacks()) == []
    finally:
        pipeline.close()


@both
def test_stages_wait_for_the_device(device: torch.device) -> None:
    pipeline = video()
    pipeline.load(device)
    frames(pipeline, 1)
    begun = time.perf_counter()
    (response,) = pipeline.generate([Sample(0, "a red disc moves to the right")], [Query(0, 0, 1)])
    wall_s = time.perf_counter() - begun
    assert set(response.stages) == {"text_encode", "denoise", "vae_decode", "other"}
    assert all(seconds > 0 for seconds in response.stages.values())
    assert 0.5 * wall_s < sum(response.stages.values()) <= wall_s
    assert sum(response.step_s) == pytest.approx(response.stages["denoise"], rel=1e-6)


@on_gpu
def test_a_seed_gives_the_cpus_video_in_float32_and_the_same_one_again() -> None:
    pipelines = [video(dtype="float32") for _ in range(2)]
    for pipeline, device in zip(pipelines, (CPU, GPU), strict=True):
        pipeline.load(device)
    (expected,), (video_THWC,), (again,) = frames(pipelines[0], 5), frames(pipelines[1], 5), frames(pipelines[1], 5)
    assert np.abs(video_THWC - again).max() <= 1
    assert np.abs(video_THWC - expected).mean() < 2  # of 255; sums have another order, perhaps in TF32


@pytest.mark.parametrize(
    "offload",
    [
        pytest.param("model", marks=feature("diffusers_t2v", "offload: model")),
        pytest.param("sequential", marks=feature("diffusers_t2v", "offload: sequential")),
    ],
)
@on_gpu
def test_offloaded_parts_are_in_host_memory_and_the_frames_the_same(offload: str) -> None:
    plain, moved = video(dtype="float32"), video(dtype="float32", offload=offload)
    plain.load(GPU)
    moved.load(GPU)
    assert np.abs(frames(moved, 3) - frames(plain, 3)).max() <= 2
    assert {p.device.type for p in plain._pipe.transformer.parameters()} == {"cuda"}
    assert {p.device.type for p in moved._pipe.transformer.parameters()} == {"cpu" if offload == "model" else "meta"}
    assert moved.fallbacks() == []


@on_gpu
@feature("diffusers_t2v", "offload: model, with weights: random")
def test_random_weights_are_drawn_in_host_memory_where_they_are_offloaded() -> None:
    shrink = {"layers": 2, "width": "1/12", "vocabulary": 320}
    drawn = video(weights="random", architecture="wan2.1-t2v-1.3b", shrink=shrink, offload="model", num_frames=5, height=32)
    drawn.load(GPU)
    assert frames(drawn, 1).shape == (1, 5, 32, 48, 3)
    assert {p.device.type for p in drawn._pipe.transformer.parameters()} == {"cpu"}


@on_gpu
@feature("diffusers_t2v", "compile: the denoiser's repeated blocks")
def test_compiled_blocks_give_the_frames_of_uncompiled_ones() -> None:
    plain, compiled = video(dtype="float32"), video(dtype="float32", compile=True)
    plain.load(GPU)
    compiled.load(GPU)
    assert np.abs(frames(compiled, 2) - frames(plain, 2)).mean() < 2
    assert compiled.effective()["compiled"] == "True"
    assert compiled.fallbacks() == []


@on_gpu
@feature("diffusers_t2v", "cache on a GPU")
def test_a_cache_is_effective_and_counts_what_it_skips_on_a_gpu() -> None:
    pipeline = video(cache={"name": "first_block", "threshold": 0.8}, num_inference_steps=12)
    pipeline.load(GPU)
    frames(pipeline, 1)
    match = re.search(r"(\d+)% of the last batch's work skipped", pipeline.effective()["cache"])
    assert match is not None
    assert 10 < int(match[1]) < 100
    assert pipeline.fallbacks() == []


@on_gpu
@feature("power", "energy of a GPU")
def test_the_meter_counts_energy_under_load() -> None:
    try:
        meter = find_meter(GPU, Path("/sys/class/powercap"))
    except MeterError as why:
        pytest.skip(str(why))
    before = meter.energy_and_power().get("energy_j")
    if before is None:
        pytest.skip(f"{meter.source} reports power of this device, but no energy")
    a_NN = torch.randn(4096, 4096, device=GPU)
    begun = time.perf_counter()
    while time.perf_counter() - begun < 1:
        torch.mm(a_NN, a_NN)
        torch.cuda.synchronize()
    spent_j, spent_s = meter.energy_and_power()["energy_j"] - before, time.perf_counter() - begun
    assert 1 < spent_j / spent_s < 2 * (meter.limit_w or 1500)
    assert meter.state()["temperature_c"] is None or 5 < meter.state()["temperature_c"] < 120


@pytest.mark.parametrize(("name", "dtype"), [("fp8_ocp", torch.float8_e4m3fn), ("fp8_fnuz", torch.float8_e4m3fnuz)])
@on_gpu
def test_the_device_multiplies_fp8_in_the_formats_of_the_table(name: str, dtype: torch.dtype) -> None:
    if architecture(GPU) not in ARCHITECTURES:
        pytest.skip(f"{architecture(GPU)} is not in the table")
    a_NN, one = torch.ones(64, 64, device=GPU).to(dtype), torch.ones((), device=GPU)
    try:
        product = torch._scaled_mm(a_NN, a_NN.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16)
        works = bool((product == 64).all())
    except (RuntimeError, ValueError):
        works = False
    assert works is can(GPU, name)


@on_gpu
@feature("diffusers_t2v", "quantisation: torchao Float8DynamicActivationFloat8WeightConfig")
def test_dynamic_float8_runs_where_the_table_has_it_and_is_refused_elsewhere() -> None:
    pytest.importorskip("torchao")
    fnuz = can(GPU, "fp8_fnuz") and not can(GPU, "fp8_ocp")
    forms = {"activation_dtype": "float8_e4m3fnuz", "weight_dtype": "float8_e4m3fnuz"} if fnuz else {}
    pipeline = video(quantisation={"name": "torchao", "quant_type": "Float8DynamicActivationFloat8WeightConfig", **forms})
    if not fnuz and not can(GPU, "fp8_ocp"):
        with pytest.raises(ConfigError, match="needs matrix products of fp8 in the OCP form"):
            pipeline.load(GPU)
        return
    pipeline.load(GPU)
    assert "float8" in pipeline.effective()["quantisation"]
    assert frames(pipeline, 1).std() > 1


@pytest.mark.parametrize(
    ("options", "stored"),
    [
        pytest.param(
            {"name": "torchao", "quant_type": "Int8DynamicActivationInt8WeightConfig"},
            "int8",
            marks=feature("diffusers_t2v", "quantisation: torchao Int8DynamicActivationInt8WeightConfig"),
        ),
        pytest.param(
            {"name": "bitsandbytes", "load_in_8bit": True},
            "int8",
            marks=feature("diffusers_t2v", "quantisation: bitsandbytes, load_in_8bit"),
        ),
        pytest.param(
            {"name": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "bfloat16"},
            "uint8",
            marks=feature("diffusers_t2v", "quantisation: bitsandbytes, load_in_4bit"),
        ),
    ],
)
@on_gpu
def test_quantised_weights_are_effective_and_give_nearly_the_same_frames(options: dict[str, Any], stored: str) -> None:
    pytest.importorskip(options["name"])
    plain, quantised = video(), video(quantisation=options)
    plain.load(GPU)
    quantised.load(GPU)
    assert stored in quantised.effective()["quantisation"].lower() or "params4bit" in quantised.effective()["quantisation"].lower()
    assert quantised.fallbacks() == []
    assert np.abs(frames(quantised, 1) - frames(plain, 1)).mean() < 20


@on_gpu
@feature("transformers_llm", "a GPU, static batching")
def test_both_kinds_of_batching_answer_on_a_gpu_as_on_a_cpu() -> None:
    samples = list(Language(num_prompts=9).samples())
    expected = answers(samples, CPU, "static")
    for batching in ("static", "continuous"):
        same = sum(a == b for a, b in zip(answers(samples, GPU, batching), expected, strict=True))
        assert same >= len(samples) - 1  # sums in another order may change one word


def answers(samples: Sequence[Sample], device: torch.device, batching: str) -> list[str | None]:
    pipeline = TransformersLLM(batching=batching, dtype="float32", batch_size=len(samples), max_new_tokens=48)  # type: ignore[arg-type]
    pipeline.load(device)
    try:
        return [r.text for r in pipeline.generate(samples, [Query(i, i, query_seed(1, i)) for i in range(len(samples))])]
    finally:
        pipeline.close()
