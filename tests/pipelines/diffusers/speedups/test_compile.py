"""Compiled blocks of the denoisers."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.diffusers.speedups.compile import Compile
from tests.pipelines.diffusers.speedups.conftest import generate, load


@pytest.mark.slow  # half a minute of compiling
@pytest.mark.feature("diffusers_t2v", "compile: the denoiser's repeated blocks")
def test_compiled_blocks_are_effective_and_give_the_same_clip(tiny_wan: Path, plain: Any) -> None:
    pipeline = load(tiny_wan, compile=True)
    assert np.abs(generate(pipeline, 2) - plain).max() <= 1
    assert (pipeline.effective()["compiled"], pipeline.fallbacks()) == ("True", [])
    assert float(pipeline.effective()["compile_s"]) > 0


def test_compilation_is_the_default_of_torchaos_kinds_on_a_gpu_alone(tiny_wan: Path) -> None:
    def compiled(device: str, **settings: Any) -> tuple[str, dict[str, str]]:
        pipeline = load(tiny_wan)
        loaded = dataclasses.replace(pipeline._loaded, device=torch.device(device))
        for name, value in settings.items():
            setattr(pipeline, name, value)
        option = next(one for one in pipeline._speed_ups if isinstance(one, Compile))
        if option.requested:
            option.apply(loaded)
        return option.effective(loaded), dict(option.notes(loaded))

    torchao = {"name": "torchao", "quant_type": "Int8WeightOnlyConfig"}
    assert compiled("cuda", quantisation=torchao)[0] == "True"
    assert "torchao" in compiled("cuda", quantisation=torchao)[1]["compile_choice"]
    assert compiled("cuda", quantisation=torchao, compile=False) == ("False", {})
    assert compiled("cpu", quantisation=torchao) == ("False", {})
    assert compiled("cuda", quantisation="layerwise") == ("False", {})
