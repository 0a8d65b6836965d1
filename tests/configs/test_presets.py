"""The presets of MLPerf's models: each one, shrunk, is run as a user runs it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from configs.errors import ConfigError
from configs.load_config import PRESETS, load_config, parse_config
from tests.conftest import SuiteRun, last_line, read_report
from workloads.mlperf.run_rules import apply_mlperf_rules
from workloads.mlperf.vbench_prompts import NEGATIVE_PROMPT

SCENARIOS = {
    "llm/llama2-70b": ("offline", "server", "interactive"),
    "llm/gpt-oss-120b": ("offline", "server", "interactive"),
    "llm/deepseek-r1": ("offline", "server", "interactive"),
    "llm/llama3.1-8b": ("offline", "server", "interactive"),
    "vlm/qwen3-vl-235b-a22b": ("offline", "server", "interactive"),
    "t2v/wan2.2-t2v-a14b": ("offline", "single_stream"),
}
# The others run with make test-all and make suite PRESETS=mlperf.
FAST = ("llm/llama2-70b",)
RUNS = [preset if preset in FAST else pytest.param(preset, marks=pytest.mark.slow) for preset in SCENARIOS]
SHORT = ["truth.replays=1", "load.min_duration_s=0.2", "load.min_query_count=4", "dataset.num_prompts=4"]


@pytest.mark.parametrize(("preset", "scenario"), [(p, s) for p, scenarios in SCENARIOS.items() for s in scenarios])
def test_a_preset_follows_its_benchmark_and_its_shrunk_variant_is_a_quick_run(preset: str, scenario: str) -> None:
    full = apply_mlperf_rules(load_config(None, preset, scenario=scenario))
    assert full.rules.startswith("mlperf-v6.")
    assert full.load.min_duration_s == 600
    assert full.pipeline_options.get("weights") is None
    assert not full.canaries
    shrunk = load_config(None, preset, scenario=scenario, variant="shrunk")
    assert (shrunk.rules, shrunk.variant, shrunk.benchmark) == ("quick", "shrunk", full.benchmark)
    assert shrunk.pipeline_options["weights"] == "random"
    assert shrunk.pipeline_options["architecture"] == full.pipeline_options["architecture"] == preset.partition("/")[2]


def test_the_wan_preset_has_the_references_negative_prompt() -> None:
    assert load_config(None, "t2v/wan2.2-t2v-a14b").pipeline_options["negative_prompt"] == NEGATIVE_PROMPT


@pytest.mark.parametrize("preset", RUNS)
def test_a_shrunk_preset_runs_from_load_to_report(suite: SuiteRun, preset: str) -> None:
    done = suite("--config", preset, "--variant", "shrunk", *[word for change in SHORT for word in ("--set", change)])
    assert done.returncode == 0, done.stderr
    report = read_report(done)
    assert report["verdict"] == "VALID"
    assert report["effective"]["weights"] == "random"
    assert report["effective"]["shrink"].startswith("layers 2, width 1/")
    assert report["random_weights"] is True
    withheld = [name for name, f in report["figures"].items() if f["note"].startswith("withheld")]
    assert all(report["figures"][name]["value"] is None for name in withheld)
    assert not set(last_line(done)["headline"]) & {"rouge_l", "exact_match", "hierarchical_f1"}
    page = (Path(last_line(done)["run"]) / "report.html").read_text(encoding="utf-8")
    assert "Random weights." in page
    assert ("cut_off: off" in page) == (report["loosened"].get("cut_off") == "off") == preset.startswith(("llm", "vlm"))


VARIANTS = """
workload: llm
pipeline: {name: toy_llm, batch_size: 2, token_s: 1}
scenarios: {server: {pipeline: {batch_size: 9}}}
variants:
  small: {pipeline: {batch_size: 4}, scenarios: {offline: {pipeline: {token_s: 3}}}}
"""


@pytest.mark.parametrize(
    ("variant", "scenario", "changes", "options"),
    [
        (None, "server", [], {"batch_size": 9, "token_s": 1}),
        ("small", "server", [], {"batch_size": 4, "token_s": 1}),
        ("small", "offline", [], {"batch_size": 4, "token_s": 3}),
        ("small", "offline", ["pipeline.batch_size=5"], {"batch_size": 5, "token_s": 3}),
    ],
)
def test_a_variant_goes_over_the_preset_and_its_scenario(
    tmp_path: Path, variant: str | None, scenario: str, changes: list[str], options: dict[str, int]
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(VARIANTS, encoding="utf-8")
    config = load_config(None, str(file), changes, scenario=scenario, variant=variant)
    assert (config.pipeline_options, config.variant) == (options, variant)


def test_a_variant_with_another_pipeline_takes_none_of_the_presets_options(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(VARIANTS + "  other: {pipeline: {name: toy_vlm, token_s: 7}}\n  same: {pipeline: {name: toy_llm, token_s: 7}}\n")
    found = {v: load_config(None, str(file), scenario="server", variant=v).pipeline for v in ("other", "same")}
    assert found["other"] == {"name": "toy_vlm", "token_s": 7}
    assert found["same"] == {"name": "toy_llm", "batch_size": 9, "token_s": 7}


@pytest.mark.parametrize("preset", SCENARIOS)
def test_a_preset_pins_its_checkpoint_or_says_why_not(preset: str) -> None:
    revision = load_config(None, preset).pipeline_options.get("revision")
    text = (PRESETS / f"{preset}.yaml").read_text(encoding="utf-8")
    assert "# No revision: " in text if revision is None else re.fullmatch("[0-9a-f]{40}", revision)


def test_an_unknown_variant_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"unknown variant 'shrunken' \(did you mean 'shrunk'\?\); known: 8xmi325x, 8xmi355x, shrunk"):
        load_config(None, "llm/llama2-70b", variant="shrunken")
    with pytest.raises(ConfigError, match="has no variants"):
        load_config(None, "llm/toy", variant="shrunk")


@pytest.mark.parametrize("preset", ["t2v/embedded", "llm/embedded", "llm/embedded-moe", "vlm/embedded"])
def test_an_embedded_panel_has_a_variant_for_a_gpu_with_larger_batches_and_a_longer_warm_up(preset: str) -> None:
    plain, gpu = (load_config(None, preset, variant=variant) for variant in (None, "gpu"))
    assert gpu.pipeline_options["batch_size"] > plain.pipeline_options["batch_size"]
    assert gpu.warmup_batches > plain.warmup_batches
    same = {"batch_size": 0}
    assert gpu.pipeline_options | same == plain.pipeline_options | same


@pytest.mark.parametrize(
    ("canaries", "message"),
    [
        ({"loops": "off"}, "'canaries' has an unknown name 'loops'.*known: black, cut_off"),
        ({"looping": 2}, "canaries.looping"),
        ({"looping": "on"}, "canaries.looping"),
    ],
)
def test_an_unknown_canary_cannot_be_loosened(canaries: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config({"workload": "llm", "pipeline": {"name": "toy_llm"}, "canaries": canaries}, "test")
