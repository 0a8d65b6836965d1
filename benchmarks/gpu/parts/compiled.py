"""Speed-ups of compilation: of the denoiser's blocks, alone and with quantised weights whose kernels need it, and of Llama's decoding.

The time of compilers is unpredictable, so this part comes last and keeps each figure immediately.
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

    from benchmarks.gpu.parts import compiled_decode

    keep("decode", compiled_decode.measure(job))
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
    decode = figures.get("decode", {})
    text = f"Llama's decoding {decode['tokens_per_s']:.4g} tokens/s; " if decode.get("ran") else ""
    return text + denoising.summary(figures.get("denoiser", {}))
