"""Shares of what the device was measured to reach: of its matrix products, and of its memory's bandwidth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}  # torch's name -> that of the ceilings and of plans


def product_ceiling(ceilings: Mapping[str, Any], dtype: str) -> float | None:
    """TFLOP/s of the best matrix product that was measured in that dtype, torch's name; None where none was."""
    found: Mapping[str, float] = ceilings.get("products", {}).get(DTYPES.get(dtype, dtype), {})
    return found.get("tflops")


def bandwidth_ceiling(ceilings: Mapping[str, Any]) -> float | None:
    """GB/s, the best of what was measured."""
    found: Mapping[str, float] = ceilings.get("memory", {})
    return found.get("best_gb_s")


def work(flops: float, seconds: float, ceiling_tflops: float | None) -> dict[str, float | None]:
    """MFU = FLOPs / seconds / ceiling. FLOPs are those of the model as it is written, not what a kernel really did."""
    tflops = flops / seconds / 1e12
    return {"seconds": seconds, "flops": flops, "tflops": tflops, "mfu": tflops / ceiling_tflops if ceiling_tflops else None}


def traffic(num_bytes: float, seconds: float, ceiling_gb_s: float | None) -> dict[str, float | None]:
    """Bandwidth use = bytes / seconds / ceiling. Bytes are those that must be read at least once."""
    gb_s = num_bytes / seconds / 1e9
    return {"bytes": num_bytes, "gb_s": gb_s, "bandwidth_use": gb_s / ceiling_gb_s if ceiling_gb_s else None}


def percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}" if share >= 0.1 else f"{share:.1%}"
