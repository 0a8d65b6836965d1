"""Time and memory of quantised denoisers: torchao's and bitsandbytes' kinds, not compiled, if they are installed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from benchmarks.gpu import denoising
from benchmarks.gpu.part import Job, Keep, not_run

if TYPE_CHECKING:
    import torch

STEPS = 4
LEAST_S = 8.0  # that must be left to start another kind


def measure(job: Job, keep: Keep) -> None:
    denoiser = denoising.Denoiser(job, STEPS)
    rows: dict[str, Any] = {"none": denoiser.row("quantisation")}
    keep("kinds", rows)
    for name, options in kinds(denoiser.device).items():
        enough = job.left_s >= (0.5 if job.shrink else LEAST_S)
        rows[name] = denoiser.row("quantisation", quantisation=options) if enough else not_run("no time was left")
        keep("kinds", rows)


def summary(figures: Mapping[str, Any]) -> str:
    return denoising.summary(figures.get("kinds", {}))


def kinds(device: torch.device) -> dict[str, dict[str, Any]]:
    """Options of pipelines/diffusers/speedups/quantisation.py. Dynamic ones compute in the format, the others store weights in it."""
    return {
        "torchao int8, weights": {"name": "torchao", "quant_type": "Int8WeightOnlyConfig"},
        "torchao int8, dynamic": {"name": "torchao", "quant_type": "Int8DynamicActivationInt8WeightConfig"},
        "torchao float8, weights": {"name": "torchao", "quant_type": "Float8WeightOnlyConfig", **_form(device, "weight_dtype")},
        "torchao float8, dynamic": float8_dynamic(device),
        "bitsandbytes 8 bit": {"name": "bitsandbytes", "load_in_8bit": True},
        "bitsandbytes 4 bit": {
            "name": "bitsandbytes",
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_compute_dtype": "bfloat16",
        },
    }


def float8_dynamic(device: torch.device) -> dict[str, Any]:
    forms = _form(device, "activation_dtype", "weight_dtype")
    return {"name": "torchao", "quant_type": "Float8DynamicActivationFloat8WeightConfig", **forms}


def _form(device: torch.device, *options: str) -> dict[str, str]:
    """The fnuz format, if it is the only one that the device computes in."""
    from pipelines.devices.accelerators import can

    only_fnuz = can(device, "fp8_fnuz") and not can(device, "fp8_ocp")
    return dict.fromkeys(options, "float8_e4m3fnuz") if only_fnuz else {}
