"""Seconds of one operation: by the device's events, on a CPU by the clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch


def synchronise(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def seconds_each(operation: Callable[[], object], device: torch.device, warm_s: float, repeats: int, operations: int = 1) -> float:
    """The median of `repeats`, each the mean of so many operations, after warm_s of the same work, because clocks rise only under load."""
    start = time.perf_counter()
    while True:
        operation()
        synchronise(device)
        if time.perf_counter() - start >= warm_s:
            break
    return median(_seconds(operation, device, operations) / operations for _ in range(repeats))


def _seconds(operation: Callable[[], object], device: torch.device, operations: int) -> float:
    if device.type == "cpu":
        start = time.perf_counter()
        for _ in range(operations):
            operation()
        return time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(operations):
        operation()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3
