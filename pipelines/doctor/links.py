"""Matrix product, collectives and messages between two ranks, measured on this rank.

Each figure is the median of several repetitions after a warm-up; a repetition is several operations with one wait for the device
at its end, as nccl-tests does. Bus bandwidth makes numbers of ranks comparable (nccl-tests, doc/PERFORMANCE.md):
    all-reduce   2 (n - 1) / n * bytes / time
    all-gather     (n - 1) / n * bytes of the whole result / time
A rank checks its values once before they are timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from pipelines.doctor.examination import Collective, Pair

if TYPE_CHECKING:
    import torch
    from torch.distributed import ProcessGroup

SMALL_BYTES = 8  # for each rank; for latency


class Effort(NamedTuple):
    """How much is measured. product: rows and columns of the matrices; large_bytes: of the messages for bandwidth."""

    product: int
    large_bytes: int
    repetitions: int
    operations: int


ON_GPU, ON_CPU = Effort(8192, 256 * 2**20, 5, 10), Effort(768, 4 * 2**20, 5, 2)


def effort(device: torch.device) -> Effort:
    return ON_CPU if device.type == "cpu" else ON_GPU


def product_tflops(device: torch.device, dtype: str) -> float:
    """TFLOP/s of a square matrix product, 2 N^3 operations each."""
    import torch

    size = effort(device).product
    a_NN = torch.randn(size, size, device=device).to(getattr(torch, dtype))
    b_NN = torch.randn_like(a_NN)
    return 2 * size**3 / seconds(lambda: torch.mm(a_NN, b_NN), device) / 1e12


def collectives(scope: str, ranks: Sequence[int], rank: int, group: ProcessGroup | None, device: torch.device) -> list[Collective]:
    """All-reduce and all-gather among `ranks`, as this rank measures them."""
    return [measure(scope, ranks, rank, group, device) for measure in (_all_reduce, _all_gather)]


def pair(scope: str, ranks: tuple[int, int], rank: int, device: torch.device) -> Pair:
    """A message there and back, as this rank of the two measures it. Figures are one way."""
    import torch
    import torch.distributed as dist

    first, second = ranks
    peer = second if rank == first else first

    def there_and_back(message: torch.Tensor) -> None:
        if rank == first:
            dist.send(message, peer)
            dist.recv(message, peer)
        else:
            dist.recv(message, peer)
            dist.send(message, peer)

    large = torch.full((effort(device).large_bytes // 4,), float(first + 1 if rank == first else 0), device=device)
    there_and_back(large)
    correct = bool((large == first + 1).all())
    small = torch.zeros(SMALL_BYTES // 4, device=device)
    latency_s = seconds(lambda: there_and_back(small), device) / 2
    return Pair(scope, ranks, latency_s, large.nbytes / (seconds(lambda: there_and_back(large), device) / 2), correct)


def seconds(operation: Callable[[], object], device: torch.device) -> float:
    """Seconds of one operation. Every rank runs the same number of them."""
    _, _, repetitions, operations = effort(device)
    for _ in range(operations):
        operation()
    spent = []
    for _ in range(repetitions):
        _wait_for(device)
        started = time.perf_counter()
        for _ in range(operations):
            operation()
        _wait_for(device)
        spent.append((time.perf_counter() - started) / operations)
    return median(spent)


def slowest(measured: Sequence[Collective]) -> list[Collective]:
    """One entry for each collective from those of its ranks: the slowest, correct where all were."""
    merged: dict[tuple[str, str, tuple[int, ...]], Collective] = {}
    for c in measured:
        key = (c.operation, c.scope, tuple(c.ranks))
        known = merged.get(key, c)
        merged[key] = Collective(
            c.operation,
            c.scope,
            c.ranks,
            max(known.latency_s, c.latency_s),
            min(known.bus_bandwidth, c.bus_bandwidth),
            known.correct and c.correct,
        )
    return list(merged.values())


def both_sides(measured: Sequence[Pair]) -> list[Pair]:
    """One entry for each pair from those of its two ranks: the slower, correct where both were."""
    merged: dict[tuple[int, int], Pair] = {}
    for p in measured:
        known = merged.get(p.ranks, p)
        latency_s, bandwidth = max(known.latency_s, p.latency_s), min(known.bandwidth, p.bandwidth)
        merged[p.ranks] = Pair(p.scope, p.ranks, latency_s, bandwidth, known.correct and p.correct)
    return list(merged.values())


def _all_reduce(scope: str, ranks: Sequence[int], rank: int, group: ProcessGroup | None, device: torch.device) -> Collective:
    import torch
    import torch.distributed as dist

    large = torch.full((effort(device).large_bytes // 4,), float(rank + 1), device=device)
    dist.all_reduce(large, group=group)
    correct = bool((large == sum(ranks) + len(ranks)).all())
    large.zero_()  # repeated sums would overflow
    small = torch.zeros(SMALL_BYTES // 4, device=device)
    latency_s = seconds(lambda: dist.all_reduce(small, group=group), device)
    factor = 2 * (len(ranks) - 1) / len(ranks)
    bandwidth = factor * large.nbytes / seconds(lambda: dist.all_reduce(large, group=group), device)
    return Collective("all_reduce", scope, list(ranks), latency_s, bandwidth, correct)


def _all_gather(scope: str, ranks: Sequence[int], rank: int, group: ProcessGroup | None, device: torch.device) -> Collective:
    import torch
    import torch.distributed as dist

    all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # the older name, up to torch 2.12
    count = len(ranks)
    part = torch.full((effort(device).large_bytes // 4 // count,), float(rank + 1), device=device)
    whole = part.new_zeros(count * len(part))
    all_gather(whole, part, group=group)
    expected = torch.tensor([r + 1.0 for r in ranks], device=device)
    correct = bool((whole.view(count, -1) == expected[:, None]).all())
    small, small_whole = part[: SMALL_BYTES // 4].clone(), whole[: count * SMALL_BYTES // 4].clone()
    latency_s = seconds(lambda: all_gather(small_whole, small, group=group), device)
    spent_s = seconds(lambda: all_gather(whole, part, group=group), device)
    return Collective("all_gather", scope, list(ranks), latency_s, (count - 1) / count * whole.nbytes / spent_s, correct)


def _wait_for(device: torch.device) -> None:
    import torch

    if device.type != "cpu":
        torch.accelerator.synchronize(device)
