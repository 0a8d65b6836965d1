"""Ranks: this process among the others of a launch, as Accelerate and torch's launcher started them."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import yaml

from configs.errors import ConfigError, RunError
from configs.run_config import RunConfig
from pipelines.distributed.roll_call import roll_call

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

PLACE = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT")  # set by torch's launcher
OF_MPI = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")  # Accelerate 1.15 takes them for WORLD_SIZE


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among the others. device: that of its model."""

    rank: int
    world_size: int
    device: torch.device


def is_main_process() -> bool:
    """Whether this is the rank that writes and prints; read from the environment, before Accelerate is initialised."""
    return "WORLD_SIZE" not in os.environ or os.environ.get("RANK", "0") == "0"


def spans_nodes() -> bool:
    """Whether ranks were started on several nodes; read from the environment."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    return world_size > int(os.environ.get("LOCAL_WORLD_SIZE", world_size))


def check_process_count() -> None:
    """Refuse a launch in which Accelerate was to start several processes and started one, and one by MPI. Raises RunError, ConfigError.

    `accelerate launch --cpu --num_processes 2` does the first silently (Accelerate 1.15).
    """
    check_environment(os.environ)
    requested = _requested_processes()
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if requested is not None and requested > 1 and started == 1:
        raise RunError(
            f"{requested} processes were requested of accelerate launch, which started one, as it does with --cpu. "
            f"Use: accelerate launch --config_file configs/accelerate/cpu_2.yaml --num_processes {requested} suite.py ..."
        )


def check_environment(env: Mapping[str, str]) -> None:
    """Refuse variables by which Accelerate would wait for ranks that nobody starts. Raises ConfigError naming the variable."""
    numbers = {name: _number(name, env[name]) for name in (*PLACE, *OF_MPI) if name in env}
    fix = "Start ranks by accelerate launch --config_file configs/accelerate/cpu_2.yaml suite.py ..., or unset it."
    if "RANK" not in numbers:
        for name in (*OF_MPI, "WORLD_SIZE"):
            if numbers.get(name, 1) > 1:
                raise ConfigError(
                    f"{name} is {env[name]}, but RANK is not set: this process was not started as one of several ranks. {fix}"
                )
    if "WORLD_SIZE" not in numbers:
        for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
            if name in numbers:
                raise ConfigError(f"{name} is {env[name]}, but WORLD_SIZE is not set. {fix}")
        return
    if (world_size := numbers["WORLD_SIZE"]) < 1:
        raise ConfigError(f"WORLD_SIZE must be at least 1, got {world_size}. {fix}")
    if numbers.get("RANK", 0) >= world_size:
        raise ConfigError(f"RANK is {env['RANK']}, but WORLD_SIZE is {world_size}: ranks are numbered from 0 to {world_size - 1}. {fix}")
    for name in ("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if world_size > 1 else ():
        if not env.get(name):
            raise ConfigError(f"WORLD_SIZE is {world_size}, but {name} is not set. {fix.replace('it.', 'WORLD_SIZE and RANK.')}")


def _number(name: str, value: str) -> int:
    if not value.strip().isdecimal():
        raise ConfigError(f"{name} must be a number, got {value!r}. Unset it, or let accelerate launch set it.")
    return int(value)


def launcher_process() -> int | None:
    """The number of the launcher's process, where one started this rank; None where a shell or a scheduler did."""
    return os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ or _launcher_arguments() is not None else None


def join_ranks(config: RunConfig) -> Ranks:
    """Initialise Accelerate and choose the device. Raises RunError where the ranks did not find each other."""
    import torch
    from accelerate import PartialState

    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    on_cpu = config.device == "cpu" or not torch.accelerator.is_available()
    with roll_call():
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
    if (words := _launcher_arguments()) is None:
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


def _launcher_arguments() -> list[str] | None:
    """The command line of the `accelerate launch` that is our parent; None where it is not."""
    import psutil

    try:
        words = psutil.Process().parent().cmdline()  # type: ignore[union-attr]
    except (psutil.Error, AttributeError):
        return None
    if not any(Path(w).name == "accelerate" or "accelerate.commands" in w for w in words[:4]) or "launch" not in words:
        return None
    return words
