"""Compiled blocks of the denoisers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.pipelines.diffusers.speedups.conftest import generate, load


@pytest.mark.slow  # half a minute of compiling
@pytest.mark.feature("diffusers_t2v", "compile: the denoiser's repeated blocks")
def test_compiled_blocks_are_effective_and_give_the_same_clip(tiny_wan: Path, plain: Any) -> None:
    pipeline = load(tiny_wan, compile=True)
    assert np.abs(generate(pipeline, 2) - plain).max() <= 1
    assert (pipeline.effective()["compiled"], pipeline.fallbacks()) == ("True", [])
