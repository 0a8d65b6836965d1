"""What plugin authors import. These names stay; nothing else is promised."""

from __future__ import annotations

import importlib

import pytest

from configs.registry import BUILT_IN, KINDS, find
from pipelines.distributed.replica import Replica

NAMES = {
    "configs.registry": ("register",),
    "configs.errors": ("SuiteError", "ConfigError", "PluginError", "RunError"),
    "pipelines.base": ("Pipeline", "StreamingPipeline", "Response", "Event"),
    "workloads.base": ("Workload",),
    "workloads.records": ("Sample", "Query", "Record"),
    "metrics.base": ("Metric", "SampleMetric", "VideoMetric", "Figure", "Run"),
}
PLUGINS = {
    "pipelines": {
        *("diffusers_t2v", "transformers_llm", "transformers_vlm", "vllm", "endpoint"),
        *("toy_t2v", "toy_i2v", "toy_llm", "toy_vlm"),
    },
    "workloads": {"t2v", "i2v", "llm", "vlm"},
}


@pytest.mark.parametrize("module", NAMES)
def test_the_names_that_plugin_authors_import_are_there(module: str) -> None:
    for name in NAMES[module]:
        assert getattr(importlib.import_module(module), name).__module__ == module, name


def test_a_replica_has_the_members_that_pipelines_use() -> None:
    assert {"ranks", "position", "size", "leads", "mesh", "group", "messages", "tell", "hear"} <= set(dir(Replica()))


@pytest.mark.parametrize("kind", PLUGINS)
def test_built_in_plugins_keep_their_names(kind: str) -> None:
    assert set(BUILT_IN[kind]) == PLUGINS[kind]
    assert all(find(kind, name) for name in PLUGINS[kind])


def test_entry_points_have_their_groups() -> None:
    assert KINDS == ("pipelines", "workloads", "metrics")
