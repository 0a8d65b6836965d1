"""Another scheduler than the checkpoint's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.pipelines.diffusers.speedups.conftest import generate, load, refusal


@pytest.mark.parametrize(
    "choice",
    [
        pytest.param(
            {"name": "FlowMatchEulerDiscreteScheduler", "shift": 5.0},
            marks=pytest.mark.feature("diffusers_t2v", "scheduler: FlowMatchEulerDiscreteScheduler"),
        ),
        pytest.param(
            {"name": "UniPCMultistepScheduler", "solver_order": 1},
            marks=pytest.mark.feature("diffusers_t2v", "scheduler: UniPCMultistepScheduler"),
        ),
        *(
            pytest.param(name, marks=[pytest.mark.slow, pytest.mark.feature("diffusers_t2v", f"scheduler: {name}")])
            for name in ("DPMSolverMultistepScheduler", "FlowMatchHeunDiscreteScheduler")
        ),
    ],
)
def test_another_scheduler_is_effective_with_the_shift_of_the_checkpoint(tiny_wan: Path, plain: Any, choice: Any) -> None:
    pipeline = load(tiny_wan, scheduler=choice)
    name = choice if isinstance(choice, str) else choice["name"]
    config = pipeline._pipe.scheduler.config
    assert pipeline.effective()["scheduler"].startswith(name)
    assert pipeline.fallbacks() == []
    assert (config.get("shift") or config.get("flow_shift")) == (5.0 if isinstance(choice, dict) and "shift" in choice else 3.0)
    clips = generate(pipeline, 2)
    assert np.abs(clips - plain).max() > 1
    assert np.abs(clips[:1] - generate(pipeline, 1)).max() <= 1  # whatever else is in the batch


@pytest.mark.parametrize(
    ("choice", "why"),
    [
        ("FlowMatchEulerScheduler", "did you mean 'FlowMatchEulerDiscreteScheduler'?"),
        ({"name": "UniPCMultistepScheduler", "solver_ordre": 1}, "did you mean 'solver_order'?"),
        ("DDIMScheduler", "does not support flow matching, for which the model was trained"),
        ("FlowMatchLCMScheduler", "the same query would get different answers"),
    ],
)
def test_a_scheduler_that_the_model_cannot_use_is_refused(tiny_wan: Path, choice: Any, why: str) -> None:
    assert why in refusal(lambda: load(tiny_wan, scheduler=choice))
