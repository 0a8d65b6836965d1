"""Configurations: presets, `--set`, plugins' options, devices of `plan`, and what `plan` makes of them."""

from __future__ import annotations

from pathlib import Path

from configs.load_config import PRESETS, load_config
from configs.registry import make
from pipelines.plan.device_peaks import SHIPPED, read_devices
from pipelines.plan.plan import PlanRequest, plan
from pipelines.plan.table import plain
from tests.fuzz.fuzzing import Target, from_file
from workloads.run_folder.files import write_config
from workloads.t2v import TextToVideo

PRESET_NAMES = ("llm/embedded", "vlm/embedded", "t2v/embedded", "llm/llama2-70b", "t2v/wan2.2-t2v-a14b", "vlm/qwen3-vl-235b-a22b")
PLANNED = ("llm/llama2-70b", "t2v/wan2.2-t2v-a14b")
TOY = """workload: t2v
scenario: server
mode: both
seed: 7
dataset: {grade: rich, num_prompts: 2, split: any}
pipeline: {name: toy_t2v, seconds: 0.02, height: 48, num_frames: 9}
metrics: [throughput, latency]
gate: {world_score: 0.5}
load: {min_duration_s: 0.3, target_qps: 4.5, target_latency_s: 1, target_percentile: 0.9, interactive: {target_ttft_s: 0.5}}
parallel: {tensor: 1, context: 1, context_kind: ring, cfg: 1}
dispatch: {policy: round_robin, max_in_flight: 4}
truth: {replays: 2, max_s: 1.5}
power: {sample: never, interval_s: 0.1}
canaries: {black: off, noise: 0.2}
require: {torch: ">=2.9,<3"}
allow_fallback: [dtype]
scenarios: {server: {load: {target_qps: 5}}}
variants: {small: {pipeline: {height: 32}}}
"""
CHANGES = """pipeline.num_frames=9
load.target_qps=1e-1
dataset={grade: simple, num_prompts: 2}
canaries={black: off}
gate={world_score: 0.5}
require={torch: '>=2'}
"""


def targets(place: Path) -> list[Target]:
    presets = {f"{name.replace('/', '-')}.yaml": (PRESETS / f"{name}.yaml").read_bytes() for name in PRESET_NAMES}

    def configured(file: Path) -> None:
        config = load_config(None, str(file), variant="small" if b"small" in file.read_bytes() else None)
        write_config(place, config)
        workload = make("workloads", config.workload, config.dataset)
        make("pipelines", config.pipeline_name, config.pipeline_options)
        for metric in config.metrics or ():
            make("metrics", metric, {})
        if isinstance(workload, TextToVideo) and (workload.num_prompts or 9) < 9:
            workload.samples()

    def changed(file: Path) -> None:
        text = file.read_bytes().decode("utf-8", "surrogateescape")  # as the command line decodes its arguments
        config = load_config("t2v", None, [line for line in text.split("\n") if line])
        make("pipelines", config.pipeline_name, config.pipeline_options)

    def planned(file: Path) -> None:
        plain(plan(load_config(None, str(file)), str(file), PlanRequest("mi355x", 8, None, None, None, None, None, None)))

    plans = {name: content for name, content in presets.items() if name.startswith(tuple(p.replace("/", "-") for p in PLANNED))}
    return [
        Target("configuration", {**presets, "toy.yaml": TOY.encode()}, from_file(place, configured), 14),
        Target("--set", {"changes.txt": CHANGES.encode()}, from_file(place, changed), 5),
        Target("plan", plans, from_file(place, planned), 1),
        Target("devices file", {"devices.yaml": SHIPPED.read_bytes()}, from_file(place, lambda file: read_devices(file)), 2),
    ]
