"""Offloading parts of the pipeline to host memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from configs.registry import make
from tests.pipelines.diffusers.speedups.conftest import EMBEDDED, generate, load, refusal


@pytest.mark.parametrize("name", ["model", "sequential", "group"])
def test_offloading_is_refused_without_an_accelerator(tiny_wan: Path, name: str) -> None:
    assert f"offload {name!r} needs an accelerator; this device is a CPU" in refusal(lambda: load(tiny_wan, offload=name))


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("grop", "unknown offload 'grop' (did you mean 'group'?)"),
        ({"name": "model", "use_stream": True}, "has no options, got 'use_stream'"),
        ({"name": "group", "num_blocks_per_group": 0}, "num_blocks_per_group must be at least 1, got 0"),
        ({"name": "group", "offload_type": "block"}, "option 'offload_type' is 'block'"),
    ],
)
def test_wrong_options_of_offloading_are_refused(given: Any, why: str) -> None:
    assert why in refusal(lambda: make("pipelines", "diffusers_t2v", {"offload": given}))


@pytest.mark.gpu
@pytest.mark.feature("diffusers_t2v", "offload: group")
@pytest.mark.parametrize("kind", [{"offload_type": "leaf_level", "use_stream": True}, {"num_blocks_per_group": 2}])
def test_groups_of_layers_are_kept_in_host_memory(kind: dict[str, Any]) -> None:
    cuda = torch.device("cuda")
    options = {**EMBEDDED, "dtype": "float32"}
    pipeline = load("embedded", cuda, **{**options, "offload": {"name": "group", **kind}})
    assert np.abs(generate(pipeline) - generate(load("embedded", cuda, **options))).max() <= 2
    assert pipeline.fallbacks() == []
