"""Short trials, after loading and outside the clock, by which a speed-up chooses its own default on a GPU.

All ranks of a run must choose alike: they answer the same queries, and their answers are compared. So they agree on every figure first.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import torch

FEWEST, MOST = 2, 10  # timed calls of an operation


def chooses(device: torch.device) -> bool:
    """Whether options that are not given are chosen by trials on this device. On a CPU they are what they always were."""
    return device.type != "cpu"


def seconds_each(operation: Callable[[], object], device: torch.device, budget_s: float) -> float:
    """Seconds of the fastest of up to MOST calls, within the budget, after one that is not timed."""

    def seconds() -> float:
        begin = time.perf_counter()
        operation()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        return time.perf_counter() - begin

    first = seconds()
    best, spent, count = math.inf, first, 0
    while count < FEWEST or (count < MOST and spent < budget_s):
        last = seconds()
        best, spent, count = min(best, last), spent + last, count + 1
    return best


def agreed(figures: Sequence[float], device: torch.device) -> list[float]:
    """The largest of all ranks, figure by figure. Every rank of the run must call it, with as many figures. inf: not possible here."""
    import torch.distributed as dist

    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return list(figures)
    backend = dist.get_backend()
    largest = torch.tensor(figures, dtype=torch.float64, device="cpu" if backend == "gloo" else device)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    agreed_on: list[float] = largest.tolist()
    return agreed_on


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Root mean square of the difference, over that of the first; inf where a number is not finite or the shapes differ."""
    if one.shape != other.shape:
        return math.inf
    one, other = one.float(), other.float()
    found = float((one - other).norm() / one.norm().clamp(min=torch.finfo(torch.float32).tiny))
    return found if math.isfinite(found) else math.inf
