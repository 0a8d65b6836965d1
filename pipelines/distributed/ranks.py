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
    """This process among the others. device: that of its model."""

    rank: int
    world_size: int
    device: torch.device


def is_main_process() -> bool:
    """Whether this is the rank that writes and prints; read from the environment, before Accelerate is initialised."""
    return os.environ.get("RANK", "0") == "0"


def spans_nodes() -> bool:
    """Whether ranks were started on several nodes; read from the environment."""
    return os.environ.get("WORLD_SIZE") != os.environ.get("LOCAL_WORLD_SIZE")


def check_process_count() -> None:
    """Refuse a launch in which Accelerate was to start several processes and started one. Raises RunError.

    `accelerate launch --cpu --num_processes 2` does that silently (Accelerate 1.15).
    """
    requested = _requested_processes()
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if requested is not None and requested > 1 and started == 1:
        raise RunError(
            f"{requested} processes were requested of accelerate launch, which started one, as it does with --cpu. "
            f"Use: accelerate launch --config_file configs/accelerate/cpu_2.yaml --num_processes {requested} suite.py ..."
        )


def join_ranks(config: RunConfig) -> Ranks:
    """Initialise Accelerate and choose the device. Raises RunError where the ranks did not find each other."""
    import torch
    from accelerate import PartialState

    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    on_cpu = config.device == "cpu" or not torch.accelerator.is_available()
    state = PartialState(cpu=on_cpu)
    check_all_joined(state.num_processes)
    return Ranks(state.process_index, state.num_processes, state.device)


def check_all_joined(num_joined: int) -> None:
    """Raises RunError where Accelerate joined fewer processes than were started."""
    num_started = int(os.environ.get("WORLD_SIZE", "1"))
    if num_joined != num_started:
        raise RunError(
            f"{num_started} processes were started but Accelerate joined {num_joined}: every rank runs alone. "
            "Launch with --config_file configs/accelerate/cpu_2.yaml on a CPU, with --multi_gpu on GPUs."
        )


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
    """Destroy torch's process group, after the last message.

    A group that is left to the end of the process is destroyed there while its own threads still run, which now and then aborts the
    process, and with it the run: torch's launcher ends the other ranks of one that failed.
    """
    if ranks.world_size > 1:
        import torch.distributed as dist

        if dist.is_initialized():  # vLLM 0.32 destroys the group itself when its engine is closed
            dist.destroy_process_group()


def _requested_processes() -> int | None:
    """The number of processes on all machines that `accelerate launch` was to start; None where it is not our parent, or names none."""
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
    number = (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("num_processes")
    return int(number) if number else None
