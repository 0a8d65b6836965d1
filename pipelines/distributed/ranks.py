"""Ranks: this process among the others of a launch, as Accelerate and torch's launcher started them."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import yaml

from configs.errors import ConfigError, RunError
from configs.run_config import RunConfig

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among the others. device: where its model goes."""

    rank: int
    world_size: int
    device: torch.device


def is_main_process() -> bool:
    """Whether this process speaks for the run; known from the environment, before Accelerate is."""
    return os.environ.get("RANK", "0") == "0"


def spans_nodes() -> bool:
    """Whether ranks were started on several nodes; known from the environment."""
    return os.environ.get("WORLD_SIZE") != os.environ.get("LOCAL_WORLD_SIZE")


def check_process_count() -> None:
    """Refuse the launch in which Accelerate was asked for several processes and started one.

    `accelerate launch --cpu --num_processes 2` does that without a word (Accelerate 1.15).
    """
    asked = _processes_asked_for()
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if asked is not None and asked > 1 and started == 1:
        raise RunError(
            f"accelerate launch was asked for {asked} processes and started one, as it does with --cpu; "
            f"use: accelerate launch --config_file configs/accelerate/cpu_2.yaml --num_processes {asked} suite.py ..."
        )


def join_ranks(config: RunConfig) -> Ranks:
    """Initialise Accelerate and choose the device. Raises RunError where ranks would not know of each other."""
    import torch
    from accelerate import PartialState

    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    on_cpu = config.device == "cpu" or not torch.accelerator.is_available()
    state = PartialState(cpu=on_cpu)
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if state.num_processes != world_size:
        raise RunError(
            f"{world_size} processes were started but Accelerate joined {state.num_processes}: every rank believes it is alone; "
            "launch with --config_file configs/accelerate/cpu_2.yaml on a CPU, with --multi_gpu on GPUs"
        )
    return Ranks(state.process_index, world_size, state.device)


def share(value: T, ranks: Ranks) -> T:
    """Rank 0's value on every rank."""
    if ranks.world_size == 1:
        return value
    from accelerate.utils import broadcast_object_list

    shared: list[T] = broadcast_object_list([value])
    return shared[0]


def check_all_see(folder: Path, ranks: Ranks) -> None:
    """Raises ConfigError, on every rank, where one of them cannot see the run folder."""
    if ranks.world_size == 1:
        return
    from accelerate.utils import gather_object

    if blind := sorted({host for host in gather_object([None if folder.is_dir() else socket.gethostname()]) if host}):
        raise ConfigError(
            f"{', '.join(blind)} cannot see the run folder {folder}, into which videos go; "
            "give --output a folder on a file system that all nodes share"
        )


def leave_ranks(ranks: Ranks) -> None:
    """Take torch's process group down when all is said.

    One that is left to the end of the process is destroyed there beside threads of its own, which now and then aborts the process, and
    with it the run: torch's launcher ends the other ranks of one that failed.
    """
    if ranks.world_size > 1:
        import torch.distributed as dist

        dist.destroy_process_group()


def _processes_asked_for() -> int | None:
    """What `accelerate launch`, if it is our parent, was told about the number of processes on all machines."""
    import psutil

    try:
        words = psutil.Process().parent().cmdline()  # type: ignore[union-attr]
    except (psutil.Error, AttributeError):
        return None
    if not any(Path(w).name == "accelerate" or "accelerate.commands" in w for w in words[:4]) or "launch" not in words:
        return None
    values: dict[str, str] = {}
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, sign, value = word.lstrip("-").replace("-", "_").partition("=")
        values.setdefault(name, value if sign else following)
    if "num_processes" in values:
        return int(values["num_processes"])
    default = Path(os.environ.get("HF_HOME", Path.home() / ".cache/huggingface")) / "accelerate/default_config.yaml"
    file = Path(values.get("config_file", default))
    if not file.is_file():
        return None
    found = (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("num_processes")
    return int(found) if found else None
