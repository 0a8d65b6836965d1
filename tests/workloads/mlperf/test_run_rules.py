"""What MLPerf's rules fill in and refuse before a run starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from configs.errors import ConfigError
from configs.load_config import load_config, parse_config, read_yaml
from configs.registry import make
from configs.run_config import RunConfig
from tests.configs.test_presets import SCENARIOS
from tests.workloads.conftest import mlperf_config, mlperf_values
from workloads.mlperf.run_rules import apply_mlperf_rules, check_data, check_generation, embedded_round, shown_benchmark
from workloads.mlperf.vbench_prompts import NEGATIVE_PROMPT
from workloads.run_folder.files import write_config


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: mlperf_config("gpt-oss-120b", load={"min_duration_s": 60}),
            r"load.min_duration_s is 60.*at least 600\..*--set rules=quick",
        ),
        (lambda: mlperf_config("wan-2.2-t2v-a14b", load={"min_query_count": 49}), "load.min_query_count is 49.*at least 50"),
        (lambda: mlperf_config("wan-2.2-t2v-a14b", "single_stream", load={"min_query_count": 63}), "is 63.*at least 64"),
        (lambda: mlperf_config("gpt-oss-120b", "server", load={"target_tpot_s": 0.09}), "load.target_tpot_s is 0.09.*at most 0.08"),
        (
            lambda: mlperf_config("gpt-oss-120b", "interactive", load={"interactive": {"target_ttft_s": 3}}),
            "load.interactive.target_ttft_s.*at most 2",
        ),
        (lambda: mlperf_config("gpt-oss-120b", "server", load={"target_percentile": 0.9}), "load.target_percentile is 0.9.*requires 0.99"),
        (lambda: mlperf_config("qwen3-vl-235b-a22b", "server", load={"target_ttft_s": 1}), "no limit on tokens"),
        (
            lambda: mlperf_config("gpt-oss-120b", "single_stream"),
            "no scenario 'single_stream' in MLPerf v6.1; it has offline, server, interactive",
        ),
        (lambda: mlperf_config("qwen3-vl-235b-a22b", "interactive", "mlperf-v6.0"), "no scenario 'interactive' in MLPerf v6.0"),
        (lambda: mlperf_config("gpt-oss-120b", mode="both"), "two runs: --mode performance --set dataset.source=gpt-oss-performance, and"),
        (lambda: mlperf_config("llama2-70b-99"), "'llama2-70b-99' is not part of MLPerf v6.1, only of v6.0"),
        (lambda: mlperf_config("gpt-oss-120"), r"unknown benchmark 'gpt-oss-120' \(did you mean 'gpt-oss-120b'\?\)"),
        (lambda: mlperf_config("gpt-oss", rules="quick"), r"unknown benchmark 'gpt-oss'"),
        (
            lambda: parse_config({k: v for k, v in mlperf_values("x").items() if k != "benchmark"}, "t"),
            "--set benchmark=NAME, or --set rules=quick; known: llama2-70b-99.9",
        ),
    ],
)
def test_weaker_settings_than_the_rules_are_refused_with_the_fix(make: Callable[[], RunConfig], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        apply_mlperf_rules(make())


@pytest.mark.parametrize(
    ("dataset", "num_samples", "message"),
    [
        ({}, 24576, "dataset.source is None. Use --set dataset.source=openorca"),
        ({"source": "openorca", "path": "builtin:made-up"}, 12, "requires all 24576 samples of openorca, and the data set has 12"),
        ({"source": "openorca", "num_prompts": 64}, 64, "dataset.num_prompts=64 leaves 64"),
        ({"source": "openorca"}, 24576, None),
    ],
)
def test_another_data_set_or_a_part_of_it_is_refused(dataset: dict[str, Any], num_samples: int, message: str | None) -> None:
    config = apply_mlperf_rules(mlperf_config("llama2-70b-99.9", dataset=dataset))
    if message is None:
        check_data(config, num_samples)
    else:
        with pytest.raises(ConfigError, match=message):
            check_data(config, num_samples)
    check_data(parse_config({"workload": "llm", "pipeline": {"name": "toy_llm"}, "dataset": dataset}, "t"), num_samples)


@pytest.mark.parametrize(
    ("name", "mode", "options", "message"),
    [
        ("wan-2.2-t2v-a14b", "performance", {"num_inference_steps": 4, "height": 720}, "pipeline.num_inference_steps is 4.*requires 20"),
        ("wan-2.2-t2v-a14b", "performance", {"height": None}, "pipeline.height is None.*--set pipeline.height=720, or --set rules=quick"),
        ("wan-2.2-t2v-a14b", "performance", {"num_inference_steps": 20, "width": 1280}, None),
        ("gpt-oss-120b", "accuracy", {"max_new_tokens": 10240}, "requires 32768 in mode accuracy"),
        ("gpt-oss-120b", "performance", {"max_new_tokens": 10240}, None),
        ("wan-2.2-t2v-a14b", "performance", {"negative_prompt": NEGATIVE_PROMPT, "cache": {"name": "first_block"}}, None),
        (
            "wan-2.2-t2v-a14b",
            "performance",
            {"negative_prompt": "blur"},
            "negative_prompt is blur, .*requires 'vivid colors.*as in preset t2v",
        ),
        ("wan-2.2-t2v-a14b", "performance", {"negative_prompt": None}, "pipeline.negative_prompt is None"),
        ("gpt-oss-120b", "performance", {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": None}, None),
        ("gpt-oss-120b", "performance", {"top_p": 0.5}, "pipeline.top_p is 0.5.*--set pipeline.top_p=1.0"),
        ("gpt-oss-120b", "performance", {"top_p": None}, "pipeline.top_p is None"),
        ("gpt-oss-120b", "performance", {"top_k": 1}, "pipeline.top_k is 1, .*requires None .*--set pipeline.top_k=null"),
        ("llama2-70b-99.9", "performance", {"max_new_tokens": 16}, "max_new_tokens is 16.*requires 1024"),
        ("llama2-70b-99.9", "accuracy", {"do_sample": True}, "do_sample is True.*requires False"),
        ("llama2-70b-99.9", "accuracy", {"do_sample": False, "temperature": 1.0, "max_new_tokens": 1024}, None),
        ("llama2-70b-99.9", "accuracy", {"temperature": 0.7}, "pipeline.temperature is 0.7.*--set pipeline.temperature=0.0"),
        ("llama2-70b-99.9", "accuracy", {"temperature": 0.0}, None),
        ("deepseek-r1", "performance", {"max_new_tokens": 16}, "max_new_tokens is 16.*requires 20000"),
        ("llama3.1-8b", "performance", {"max_new_tokens": 16}, "max_new_tokens is 16.*requires 128"),
        ("llama3.1-8b", "performance", {"do_sample": True}, "do_sample is True"),
        ("llama3.1-8b", "performance", {"enable_prefix_caching": True}, "prohibits caching .*--set pipeline.enable_prefix_caching=0"),
        ("llama3.1-8b", "performance", {"mm_processor_cache_gb": 4.0}, "pipeline.mm_processor_cache_gb is 4.0"),
        ("llama3.1-8b", "performance", {"enable_prefix_caching": False, "mm_processor_cache_gb": 0.0}, None),
    ],
)
def test_other_generation_options_than_the_rules_are_refused(name: str, mode: str, options: dict[str, Any], message: str | None) -> None:
    config = apply_mlperf_rules(mlperf_config(name, mode=mode))
    if message is None:
        check_generation(config, SimpleNamespace(**options))
    else:
        with pytest.raises(ConfigError, match=message):
            check_generation(config, SimpleNamespace(**options))


@pytest.mark.parametrize("preset", SCENARIOS)
def test_the_presets_generate_answers_by_the_rules(preset: str) -> None:
    changes = ["pipeline.max_new_tokens=32768"] if "gpt-oss" in preset else []
    for mode, given in (("performance", []), ("accuracy", changes)):
        config = apply_mlperf_rules(load_config(None, preset, given, mode=mode))
        check_generation(config, make("pipelines", config.pipeline_name, config.pipeline_options))


def test_the_limits_of_the_scenario_are_written_to_the_run_folder(tmp_path: Path) -> None:
    config = apply_mlperf_rules(mlperf_config("llama3.1-8b", "interactive", "mlperf"))
    assert config.rules == f"mlperf-{embedded_round()}"
    assert (config.limits.target_ttft_s, config.limits.target_tpot_s) == (0.5, 0.03)
    assert (config.load.min_duration_s, config.load.target_percentile) == (600, 0.99)
    write_config(tmp_path, config)
    again = parse_config(read_yaml(tmp_path / "config.yaml"), "config.yaml")
    assert again == config == apply_mlperf_rules(again)


def test_a_quick_run_shows_the_gates_of_the_last_round_that_had_its_benchmark() -> None:
    rounds = [shown_benchmark(mlperf_config(name, rules="quick")) for name in ("llama2-70b-99", "llama2-70b-99.9")]
    assert [one and one.round for one in rounds] == ["v6.0", "v6.1"]
