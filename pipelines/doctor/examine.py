"""The examination on every rank: join, collect facts, measure; rank 0 writes and prints the findings."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from configs.errors import RunError, describe, first_line
from configs.output import print_line, say
from pipelines.devices.environment import check_visible_devices
from pipelines.distributed.ranks import check_all_joined, check_process_count, is_main_process
from pipelines.doctor import links
from pipelines.doctor.examination import Collective, Examination, Pair, RankFacts, prepare, write_examination
from pipelines.doctor.facts import rank_facts
from pipelines.doctor.findings import findings
from pipelines.doctor.schedule import groups, rounds
from pipelines.doctor.text import print_examination
from pipelines.doctor.watchdog import Watchdog

if TYPE_CHECKING:
    import torch

Gather = Callable[[Any], list[Any]]
EXIT_FAIL = 3


def examine(output: Path, timeout_s: float) -> bool:
    """Examine all ranks; whether there is no error. Rank 0 alone judges, writes and prints; the others return True.

    timeout_s: the longest that one step may take. A rank that does not answer ends the process of rank 0 with EXIT_FAIL.
    Raises RunError where the ranks cannot be joined or this one fails, ConfigError where the file cannot be written.
    """
    file = output if output.suffix == ".json" else output / "doctor.json"
    check_process_count()
    check_visible_devices(os.environ)
    if is_main_process():
        prepare(file)
    rank, num_ranks, device = join(timeout_s)
    examination = Examination(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), _backend(num_ranks), num_ranks, [])

    def give_up(silent: dict[int, str]) -> None:
        try:
            conclude(replace(examination, silent=silent), file)
        except Exception as error:  # whatever it is, the process must end
            say(str(error))
        os._exit(EXIT_FAIL)  # a thread that hangs in a collective cannot be ended otherwise

    watchdog = Watchdog(rank, num_ranks, timeout_s, give_up)
    try:
        for latest in stages(examination, rank, device, watchdog):
            examination = latest
    except Exception as error:
        watchdog.failed(describe(error))
        raise RunError(f"rank {rank} failed: {describe(error)}") from None
    watchdog.end()
    return conclude(examination, file) if rank == 0 else True


def join(timeout_s: float) -> tuple[int, int, torch.device]:
    """Rank, number of ranks, device. Raises RunError where ranks do not come, or did not find each other."""
    import torch
    from accelerate import PartialState

    num_ranks = int(os.environ.get("WORLD_SIZE", "1"))
    limit = {"timeout": timedelta(seconds=timeout_s + 60)} if num_ranks > 1 else {}  # the watchdog reports first, and with more detail
    try:
        state = PartialState(cpu=not torch.accelerator.is_available(), **limit)
    except (RuntimeError, ValueError) as error:
        raise RunError(f"the {num_ranks} ranks could not be joined: {first_line(error)}. Was every host started?") from None
    check_all_joined(state.num_processes)
    return state.process_index, num_ranks, state.device


def stages(examination: Examination, rank: int, device: torch.device, watchdog: Watchdog) -> Iterator[Examination]:
    """The examination as it grows, after each stage. Every rank takes the same steps."""
    gather = _gatherer(examination.num_ranks, watchdog)
    watchdog.step("device facts")
    facts = rank_facts(rank, device)
    examination = replace(examination, ranks=gather(facts))
    yield examination
    watchdog.step("matrix product")
    facts = _with_product(facts, device)
    examination = replace(examination, ranks=gather(facts))
    yield examination
    if any(r.error for r in examination.ranks):  # a broken device would hang the others
        return
    hosts = [r.host for r in examination.ranks]
    measured: list[Collective] = [c for several in gather(_collectives(hosts, rank, device, watchdog)) for c in several]
    examination = replace(examination, collectives=links.slowest(measured))
    yield examination
    messages: list[Pair] = [p for several in gather(_pairs(hosts, rank, device, watchdog, gather)) for p in several]
    yield replace(examination, pairs=links.both_sides(messages))


def conclude(examination: Examination, file: Path) -> bool:
    """Write and print the examination, and end stdout with one JSON line; whether there is no error."""
    problems = findings(examination)
    write_examination(file, examination, problems)
    print_examination(examination, problems, file)
    num_errors = sum(f.level == "error" for f in problems)
    line = {
        "doctor": str(file.resolve()),
        "verdict": "FAIL" if num_errors else "PASS",
        "num_ranks": examination.num_ranks,
        "num_errors": num_errors,
        "num_warnings": len(problems) - num_errors,
        "headline": headline(examination),
    }
    print_line(line)
    return not num_errors


def headline(examination: Examination) -> dict[str, float]:
    """Median TFLOP/s of a device, bus bandwidth of all ranks' all-reduce, median bandwidth of pairs by class, in GB/s."""
    figures = {}
    if speeds := [r.tflops for r in examination.ranks if r.tflops is not None]:
        figures["device_tflops"] = median(speeds)
    for c in examination.collectives:
        if c.scope == "all":
            figures[f"{c.operation}_gb_per_s"] = c.bus_bandwidth / 1e9
    for scope in dict.fromkeys(p.scope for p in examination.pairs):
        figures[f"{scope.replace('-', '_')}_pair_gb_per_s"] = median(p.bandwidth for p in examination.pairs if p.scope == scope) / 1e9
    return figures


def _with_product(facts: RankFacts, device: torch.device) -> RankFacts:
    try:
        return replace(facts, tflops=links.product_tflops(device, facts.dtype))
    except Exception as error:  # whatever a broken device raises is a finding
        return replace(facts, error=describe(error))


def _collectives(hosts: list[str], rank: int, device: torch.device, watchdog: Watchdog) -> list[Collective]:
    """This rank's figures: over all ranks, those of its host, and those of the same place on the other hosts."""
    import torch.distributed as dist

    measured = []
    for several in groups(hosts):
        watchdog.step(f"collectives, {several[0].scope}")
        # new_group is for all ranks to call, also for those outside it
        made = [None if group.scope == "all" else dist.new_group(group.ranks) for group in several]
        for group, process_group in zip(several, made, strict=True):
            if rank in group.ranks:
                measured += links.collectives(group.scope, group.ranks, rank, process_group, device)
    return measured


def _pairs(hosts: list[str], rank: int, device: torch.device, watchdog: Watchdog, gather: Gather) -> list[Pair]:
    """This rank's figures. Rounds begin together, so that pairs of two rounds are never measured at the same time."""
    measured = []
    for number, together in enumerate(rounds(hosts)):
        gather(None)
        watchdog.step(f"pairs, round {number + 1}, {together.scope}")
        measured += [links.pair(together.scope, ranks, rank, device) for ranks in together.pairs if rank in ranks]
    return measured


def _gatherer(num_ranks: int, watchdog: Watchdog) -> Gather:
    """A function that gives every rank the values of all; over gloo, which works where the GPUs' own library does not."""
    if num_ranks == 1:
        return lambda value: [value]
    import torch.distributed as dist

    control = dist.new_group(backend="gloo", timeout=timedelta(seconds=watchdog.timeout_s + 60))

    def gather(value: Any) -> list[Any]:
        watchdog.step("waiting for the others")
        values: list[Any] = [None] * num_ranks
        dist.all_gather_object(values, value, group=control)
        return values

    return gather


def _backend(num_ranks: int) -> str:
    import torch.distributed as dist

    return dist.get_backend() if num_ranks > 1 else "none"
