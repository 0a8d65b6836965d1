"""The device's ceilings: matrix products by format, memory bandwidth, and the energy of a product."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.gpu.part import Job, Keep, not_run

if TYPE_CHECKING:
    import torch

# Rows, columns and depth of A (M, K) by B (K, N). A single square shape may not fit a library's tiles.
SHAPES = ((8192, 8192, 8192), (16384, 8192, 4096), (4096, 4096, 16384))
SHRUNK_SHAPES = ((96, 96, 96), (128, 64, 32))
COPY_BYTES, SHRUNK_COPY_BYTES = 2**31, 2**22  # of each tensor: far more than any cache holds, MI300X's 256 MB included
ENERGY_S = 2.0  # of products under the meter; counters are written every 20 to 100 ms


def measure(job: Job, keep: Keep) -> None:
    import torch

    from pipelines.doctor.links import product_tflops

    device = torch.device(job.device)
    products: dict[str, Any] = {}
    for name in ("bf16", "fp16", "fp32", "fp8", "int8"):
        products[name] = _products(name, device, job.shrink)
        keep("products", products)
    dtype = "float32" if device.type == "cpu" else "bfloat16"
    keep("doctor", {"dtype": dtype, "tflops": product_tflops(device, dtype)})  # the doctor's single shape, by the host's clock
    keep("memory", _bandwidth(device, job.shrink))
    keep("energy", _energy(device, job.shrink))
    keep("data_sheet", _data_sheet(device, products))


def summary(figures: Mapping[str, Any]) -> str:
    rates = [f"{name} {p['tflops']:.4g}" for name, p in figures.get("products", {}).items() if "tflops" in p]
    memory = f"; memory {figures['memory']['best_gb_s']:.4g} GB/s" if "memory" in figures else ""
    return f"TFLOP/s: {', '.join(rates)}{memory}"


def _products(name: str, device: torch.device, shrink: bool) -> dict[str, Any]:
    """The best of the shapes, and all of them."""
    from benchmarks.gpu.timing import seconds_each

    by_shape: dict[str, float] = {}
    try:
        for m, n, k in SHRUNK_SHAPES if shrink else SHAPES:
            product = _product(name, device, m, n, k)
            each_s = seconds_each(product, device, 0.002 if shrink else 0.5, repeats=5, operations=2 if shrink else 10)
            by_shape[f"{m} x {n} x {k}"] = 2 * m * n * k / each_s / 1e12
    except Exception as error:  # whatever torch raises if it has no kernel for the device
        return not_run(f"{type(error).__name__}: {(str(error).splitlines() or ['no message'])[0]}")
    best = max(by_shape, key=lambda shape: by_shape[shape])
    return {"ran": True, "tflops": by_shape[best], "shape": best, "by_shape": by_shape}


def _product(name: str, device: torch.device, m: int, n: int, k: int) -> Callable[[], object]:
    """One product as a function. Raises what torch raises, and ValueError if the device does not have the format."""
    import torch

    from pipelines.devices.accelerators import architecture, can

    if name in ("bf16", "fp16", "fp32"):
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[name]
        a_MK, b_KN = (torch.randn(shape, device=device, dtype=torch.float32).to(dtype) for shape in ((m, k), (k, n)))
        return lambda: torch.mm(a_MK, b_KN)
    if name == "int8":
        a_MK, b_NK = (torch.randint(-127, 127, shape, device=device, dtype=torch.int8) for shape in ((m, k), (n, k)))
        return lambda: torch._int_mm(a_MK, b_NK.t())
    if can(device, "fp8_ocp"):
        dtype = torch.float8_e4m3fn
    elif can(device, "fp8_fnuz"):
        dtype = torch.float8_e4m3fnuz
    else:
        raise ValueError(f"{architecture(device)} has no fp8")
    a_MK, b_NK = (torch.randn(shape, device=device).to(dtype) for shape in ((m, k), (n, k)))
    one = torch.ones((), device=device)
    return lambda: torch._scaled_mm(a_MK, b_NK.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=True)


def _bandwidth(device: torch.device, shrink: bool) -> dict[str, Any]:
    """Bytes read and written per second: by a copy, a triad (McCalpin's STREAM: a = b + s c), and a sum, which only reads."""
    import torch

    from benchmarks.gpu.timing import seconds_each

    num_bytes = SHRUNK_COPY_BYTES if shrink else COPY_BYTES
    if device.type != "cpu":
        num_bytes = min(num_bytes, torch.cuda.mem_get_info(device)[0] // 8)
    a, b, c = (torch.ones(num_bytes // 4, device=device) for _ in range(3))
    operations: dict[str, tuple[int, Callable[[], object]]] = {
        "copy": (2, lambda: a.copy_(b)),
        "triad": (3, lambda: torch.add(b, c, alpha=0.5, out=a)),
        "read": (1, lambda: b.sum()),
    }
    figures: dict[str, Any] = {"tensor_bytes": a.nbytes}
    for name, (times, operation) in operations.items():
        each_s = seconds_each(operation, device, 0.002 if shrink else 0.2, repeats=5, operations=2 if shrink else 10)
        figures[f"{name}_gb_s"] = times * a.nbytes / each_s / 1e9
    return figures | {"best_gb_s": max(figures[f"{name}_gb_s"] for name in operations)}


def _energy(device: torch.device, shrink: bool) -> dict[str, Any]:
    """Energy by the device's counter while it computes only products."""
    from benchmarks.gpu.timing import synchronise
    from configs.settings import PowerSettings
    from pipelines.devices.power_meters import MeterError, find_meter

    try:
        meter = find_meter(device, Path(PowerSettings.model_fields["powercap"].default))
    except MeterError as why:
        return not_run(str(why))
    m, n, k = (SHRUNK_SHAPES if shrink else SHAPES)[0]
    product, count = _product("fp32" if device.type == "cpu" else "bf16", device, m, n, k), 0
    before, start = meter.energy_and_power().get("energy_j"), time.perf_counter()
    while time.perf_counter() - start < (0.2 if shrink else ENERGY_S):
        for _ in range(10):
            product()
        synchronise(device)
        count += 10
    elapsed_s, after = time.perf_counter() - start, meter.energy_and_power().get("energy_j")
    if before is None or after is None:
        return not_run(f"{meter.source} reports no energy for this device, only power")
    if after <= before:
        return not_run(f"{meter.source}'s counter did not change for {elapsed_s:.1f} s")
    joules = after - before
    return {
        "ran": True,
        "by": meter.source,
        "watts": joules / elapsed_s,
        "limit_w": meter.limit_w,
        "tflop_per_j": 2 * m * n * k * count / joules / 1e12,
    }


def _data_sheet(device: torch.device, products: Mapping[str, Any]) -> dict[str, Any]:
    """Shares of the vendor's figures, if configs/devices.yaml has a device of that name."""
    import torch

    from pipelines.plan.device_peaks import read_devices

    if device.type == "cpu":
        return not_run("CPUs are not in configs/devices.yaml")
    name = torch.cuda.get_device_properties(device).name
    known = {key: sheet for key, sheet in read_devices().items() if key.upper() in name.upper()}
    if not known:
        return not_run(f"configs/devices.yaml has no device of the name {name!r}")
    key, sheet = max(known.items(), key=lambda item: len(item[0]))
    shares = {f: p["tflops"] / sheet.tflops[f] for f, p in products.items() if "tflops" in p and f in sheet.tflops}
    return {"ran": True, "device": key, "shares": shares}
