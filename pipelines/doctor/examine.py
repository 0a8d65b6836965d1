"""The examination on every rank: join, tell of oneself, measure, and on rank 0 write and show what was found."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from configs.errors import RunError, first_line
from pipelines.devices.environment import check_visible_devices
from pipelines.distributed.ranks import check_process_count, is_main_process
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
EXIT_FOUND = 3


def examine(output: Path, timeout_s: float) -> bool:
    """Examine all ranks; whether nothing is wrong. Only rank 0 knows, writes and prints.

    timeout_s: the longest that one step may take. A rank that does not answer ends the process of rank 0 with EXIT_FOUND.
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
            print(f"suite: {error}", file=sys.stderr, flush=True)
        os._exit(EXIT_FOUND)  # a thread that hangs in a collective cannot be ended otherwise

    watchdog = Watchdog(rank, num_ranks, timeout_s, give_up)
    try:
        for latest in stages(examination, rank, device, watchdog):
            examination = latest
    except Exception as error:
        message = next(iter(str(error).strip().splitlines()), "no message")
        watchdog.failed(f"{type(error).__name__}: {message}")
        raise RunError(f"rank {rank} failed: {type(error).__name__}: {message}") from None
    watchdog.end()
    return conclude(examination, file) if rank == 0 else True


def join(timeout_s: float) -> tuple[int, int, torch.device]:
    """Rank, number of ranks, device. Raises RunError where ranks do not come, or would not know of each other."""
    import torch
    from accelerate import PartialState

    num_ranks = int(os.environ.get("WORLD_SIZE", "1"))
    limit = {"timeout": timedelta(seconds=timeout_s + 60)} if num_ranks > 1 else {}  # the watchdog comes first, and tells more
    try:
        state = PartialState(cpu=not torch.accelerator.is_available(), **limit)
    except (RuntimeError, ValueError) as error:
        raise RunError(f"the {num_ranks} ranks could not be joined: {first_line(error)}; was every host started?") from None
    if state.num_processes != num_ranks:
        raise RunError(
            f"{num_ranks} processes were started but Accelerate joined {state.num_processes}: every rank believes it is alone; "
            "launch with --config_file configs/accelerate/cpu_2.yaml on a CPU, with --multi_gpu on GPUs"
        )
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
    """Write, print, and end stdout with one JSON line; whether there is no error."""
    found = findings(examination)
    write_examination(file, examination, found)
    print_examination(examination, found, file)
    num_errors = sum(f.level == "error" for f in found)
    line = {
        "doctor": str(file.resolve()),
        "verdict": "FAIL" if num_errors else "PASS",
        "num_ranks": examination.num_ranks,
        "num_errors": num_errors,
        "num_warnings": len(found) - num_errors,
        "headline": headline(examination),
    }
    print(json.dumps(line), flush=True)
    return not num_errors


def headline(examination: Examination) -> dict[str, float]:
    """Median TFLOP/s of a device, bus bandwidth of all ranks' all-reduce, median bandwidth of pairs by class, in GB/s."""
    found = {}
    if speeds := [r.tflops for r in examination.ranks if r.tflops is not None]:
        found["device_tflops"] = median(speeds)
    for c in examination.collectives:
        if c.scope == "all":
            found[f"{c.operation}_gb_per_s"] = c.bus_bandwidth / 1e9
    for scope in dict.fromkeys(p.scope for p in examination.pairs):
        found[f"{scope.replace('-', '_')}_pair_gb_per_s"] = median(p.bandwidth for p in examination.pairs if p.scope == scope) / 1e9
    return found


def _with_product(facts: RankFacts, device: torch.device) -> RankFacts:
    try:
        return replace(facts, tflops=links.product_tflops(device, facts.dtype))
    except Exception as error:  # what a sick device raises is what is looked for
        return replace(facts, error=f"{type(error).__name__}: {next(iter(str(error).splitlines()), 'no message')}")


def _collectives(hosts: list[str], rank: int, device: torch.device, watchdog: Watchdog) -> list[Collective]:
    """This rank's figures, over all ranks, its host's and those of its place on the other hosts."""
    import torch.distributed as dist

    found = []
    for several in groups(hosts):
        watchdog.step(f"collectives, {several[0].scope}")
        # new_group is for all ranks to call, also for those outside it
        made = [None if group.scope == "all" else dist.new_group(group.ranks) for group in several]
        for group, process_group in zip(several, made, strict=True):
            if rank in group.ranks:
                found += links.collectives(group.scope, group.ranks, rank, process_group, device)
    return found


def _pairs(hosts: list[str], rank: int, device: torch.device, watchdog: Watchdog, gather: Gather) -> list[Pair]:
    """This rank's figures. Rounds begin together, so that no pair is measured beside one of another round."""
    found = []
    for number, together in enumerate(rounds(hosts)):
        gather(None)
        watchdog.step(f"pairs, round {number + 1}, {together.scope}")
        found += [links.pair(together.scope, ranks, rank, device) for ranks in together.pairs if rank in ranks]
    return found


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
