"""Speed-ups of compilation: of the denoiser's blocks, alone and with quantised weights, whose kernels need it.

One block is compiled and serves all 30. The time of compilers is unpredictable, so each figure is kept immediately.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.gpu import denoising
from benchmarks.gpu.part import Job, Keep, not_run
from benchmarks.gpu.parts.quantisation import float8_dynamic

STEPS = 4


def measure(job: Job, keep: Keep) -> None:
    import torch

    if torch.device(job.device).type == "cpu" and "compiled" not in job.named:
        keep("denoiser", {"compiled": not_run("on a CPU it takes most of a minute; run it with --only compiled")})
        return
    denoiser = denoising.Denoiser(job, STEPS)
    rows: dict[str, Any] = {"not compiled": denoiser.row("compiled")}
    keep("denoiser", rows)
    settings: dict[str, dict[str, Any]] = {
        "compiled": {},
        "compiled, torchao int8, dynamic": {"quantisation": {"name": "torchao", "quant_type": "Int8DynamicActivationInt8WeightConfig"}},
        "compiled, torchao float8, dynamic": {"quantisation": float8_dynamic(denoiser.device)},
    }
    for name, more in settings.items():
        rows[name] = denoiser.row("compiled", compile=True, **more)
        keep("denoiser", rows)


def summary(figures: Mapping[str, Any]) -> str:
    return denoising.summary(figures.get("denoiser", {}))
