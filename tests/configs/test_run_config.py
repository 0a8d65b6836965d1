from __future__ import annotations

from typing import Any

import pytest

from configs.load_config import parse_config
from configs.run_config import RunConfig


def make(**values: Any) -> RunConfig:
    return parse_config({"workload": "llm", "pipeline": {"name": "toy_llm", "token_s": 1}, **values}, "test")


@pytest.mark.parametrize(
    ("scenario", "limits", "by_token"),
    [
        ("offline", (None, None, None), False),
        ("single_stream", (None, None, None), False),
        ("multi_stream", (3.0, 2.0, None), True),
        ("server", (3.0, 2.0, None), True),
        ("interactive", (0.5, None, None), False),
    ],
)
def test_limits_are_those_of_the_scenario(scenario: str, limits: tuple[float | None, ...], by_token: bool) -> None:
    load = {"target_latency_s": 3, "target_ttft_s": 2, "interactive": {"target_latency_s": 0.5}}
    config = make(scenario=scenario, load=load)
    assert tuple(config.limits.model_dump().values()) == limits
    assert config.limits.by_token is by_token


def test_a_replica_has_the_product_of_the_parallel_sizes() -> None:
    parallel = make(parallel={"tensor": 2, "context": 3}).parallel
    assert parallel.size == 6
    assert parallel.active == ("tensor", "context")


def test_configurations_of_older_run_folders_are_read() -> None:
    config = make(allow_fallback=False, canaries={"black": False, "frozen": 0.1})
    assert config.allow_fallback == []
    assert config.canaries == {"black": "off", "frozen": 0.1}


def test_the_pipelines_name_is_not_one_of_its_options() -> None:
    config = make()
    assert (config.pipeline_name, config.pipeline_options) == ("toy_llm", {"token_s": 1})
