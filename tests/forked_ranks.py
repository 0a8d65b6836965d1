"""Ranks of a script, each forked from a process that has its imports behind it."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import runpy
import socket
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

SUITE = Path(__file__).parent.parent / "suite.py"
CLONE_NEWNET = 0x40000000  # sched.h

_forked = multiprocessing.get_context("forkserver")
_forked.set_forkserver_preload(
    [
        *("torch", "accelerate", "diffusers", "transformers", "scipy.stats", "matplotlib.figure", "av", "cv2", "PIL.Image"),
        *("typer", "rich.console", "rich.progress", "pydantic", "zmq", "msgspec", "psutil", "jinja2", "matplotlib.backends.backend_svg"),
        *("pipelines.launcher.launch", "metrics.report.report", "metrics.report.html.page", "metrics.report.terminal"),
    ]
)


class ForkedRank(NamedTuple):
    """outputs: the files of stdout and stderr."""

    process: ForkServerProcess
    outputs: Sequence[Path]


def start_ranks(
    folder: Path,
    arguments: Sequence[str],
    ranks: int,
    environment: Mapping[str, str],
    script: Path = SUITE,
    place: Mapping[str, str] = MappingProxyType({}),
    namespaces: Sequence[str] = (),
) -> list[ForkedRank]:
    """The script on so many ranks, forked; rank 0 first. place: what differs from one host's. namespaces: of the network, one a rank."""
    port = _free_port() if ranks > 1 else 0
    started = []
    for rank in range(ranks):
        outputs = [folder.parent / f"{folder.name}.{rank}.{name}" for name in ("out", "err")]
        of_rank = {**environment, **(_rank_environment(rank, ranks, port) if ranks > 1 else {}), **place}
        namespace = namespaces[rank] if namespaces else None
        process = _forked.Process(target=_run_script, args=(script, arguments, folder, of_rank, outputs, namespace))
        process.start()
        started.append(ForkedRank(process, outputs))
    return started


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def _rank_environment(rank: int, ranks: int, port: int) -> dict[str, str]:
    """What `accelerate launch` sets for one of several ranks on one host."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_PORT": port}
    return {"MASTER_ADDR": "127.0.0.1"} | {name: str(value) for name, value in place.items()}


def _run_script(
    script: Path, arguments: Sequence[str], folder: Path, environment: dict[str, str], outputs: Sequence[Path], namespace: str | None
) -> None:
    """What `python SCRIPT` does in that folder, its output in files."""
    if namespace:
        descriptor = os.open(f"/var/run/netns/{namespace}", os.O_RDONLY)
        assert ctypes.CDLL(None).setns(descriptor, CLONE_NEWNET) == 0
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for number, file in enumerate(outputs, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
    sys.argv = [script.name, *arguments]
    sys.path[:0] = environment.get("PYTHONPATH", "").split(os.pathsep)
    runpy.run_path(str(script), run_name="__main__")
