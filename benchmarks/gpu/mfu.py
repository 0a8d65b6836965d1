"""Shares of the device's measured ceilings: of its matrix products, and of its memory bandwidth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}  # torch's name -> the name in the ceilings and in plans


def product_ceiling(ceilings: Mapping[str, Any], dtype: str) -> float | None:
    """TFLOP/s of the fastest matrix product measured in the dtype (torch's name); None if there is none."""
    product: Mapping[str, float] = ceilings.get("products", {}).get(DTYPES.get(dtype, dtype), {})
    return product.get("tflops")


def bandwidth_ceiling(ceilings: Mapping[str, Any]) -> float | None:
    """The highest bandwidth measured, in GB/s."""
    memory: Mapping[str, float] = ceilings.get("memory", {})
    return memory.get("best_gb_s")


def work(flops: float, seconds: float, ceiling_tflops: float | None) -> dict[str, float | None]:
    """MFU = FLOPs / seconds / ceiling. FLOPs are counted from the model's definition, not from what a kernel executes."""
    tflops = flops / seconds / 1e12
    return {"seconds": seconds, "flops": flops, "tflops": tflops, "mfu": tflops / ceiling_tflops if ceiling_tflops else None}


def traffic(num_bytes: float, seconds: float, ceiling_gb_s: float | None) -> dict[str, float | None]:
    """Bandwidth use = bytes / seconds / ceiling. Bytes are those that must be read at least once."""
    gb_s = num_bytes / seconds / 1e9
    return {"bytes": num_bytes, "gb_s": gb_s, "bandwidth_use": gb_s / ceiling_gb_s if ceiling_gb_s else None}


def percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}" if share >= 0.1 else f"{share:.1%}"
