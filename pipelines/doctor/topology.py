"""How the GPUs of this host are linked, by the vendor's program, where there is one."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import msgspec

from pipelines.doctor.examination import Link, Topology

LIMIT_S = 20.0  # a driver with problems lets these programs hang


def topology() -> Topology | None:
    """The topology by the first program that answers; None where none is installed."""
    failed = None
    for command, parse in PROGRAMS:
        if shutil.which(command[0]) is None:
            continue
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=True)
            return Topology(command[0], parse(done.stdout))
        except subprocess.TimeoutExpired:
            failed = failed or Topology(command[0], error=f"no answer within {LIMIT_S:g} s")
        except (OSError, subprocess.CalledProcessError, ValueError, RecursionError) as error:
            failed = failed or Topology(command[0], error=f"{type(error).__name__}: {error}"[:200])
    return failed


class _AmdLink(msgspec.Struct):
    gpu: int
    link_type: str
    num_hops: Any = None


class _AmdGpu(msgspec.Struct):
    gpu: int
    links: list[_AmdLink]


class _RocmTopology(msgspec.Struct):
    system: dict[str, Any]


def parse_amd_smi(text: str) -> list[Link]:
    """`amd-smi topology --json` of ROCm 6.1.1 and later: a list of GPUs, each with its links (amdsmi, CHANGELOG.md)."""
    document = msgspec.json.decode(text, type=list[Any] | dict[str, Any])
    if isinstance(document, dict):
        document = next((value for value in document.values() if isinstance(value, list)), [])
    gpus = msgspec.convert(document, list[_AmdGpu])
    return [
        Link((gpu.gpu, link.gpu), link.link_type.upper(), _number(link.num_hops))
        for gpu in gpus
        for link in gpu.links
        if gpu.gpu < link.gpu
    ]


def parse_rocm_smi(text: str) -> list[Link]:
    """`rocm-smi --showtopo --json`: `(Topology) Link type between DRM devices 0 and 1` and the like under `system`."""
    system = msgspec.json.decode(text, type=_RocmTopology).system
    kinds: dict[tuple[int, int], str] = {}
    hops: dict[tuple[int, int], int | None] = {}
    for key, value in system.items():
        if match := re.search(r"\) (Link type|Hops) between DRM devices (\d+) and (\d+)", key, re.IGNORECASE):
            pair = (int(match[2]), int(match[3]))
            if match[1].lower() == "hops":
                hops[pair] = _number(value)
            else:
                kinds[pair] = str(value).upper()
    return [Link(pair, kind, hops.get(pair)) for pair, kind in kinds.items()]


def parse_nvidia_smi(text: str) -> list[Link]:
    """`nvidia-smi topo -m`: a matrix of NV#, PIX, PXB, PHB, NODE and SYS, GPUs before network cards."""
    lines = [line.split() for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()]
    return [
        Link((int(cells[0][3:]), column), cells[column + 1])
        for cells in lines
        if cells and re.fullmatch(r"GPU\d+", cells[0]) and len(cells) > 1 and not re.fullmatch(r"GPU\d+", cells[1])
        for column in range(int(cells[0][3:]) + 1, _num_gpus(lines))
        if column + 1 < len(cells)  # a line that was cut off
    ]


PROGRAMS: tuple[tuple[list[str], Callable[[str], list[Link]]], ...] = (
    (["amd-smi", "topology", "--json"], parse_amd_smi),
    (["rocm-smi", "--showtopo", "--json"], parse_rocm_smi),
    (["nvidia-smi", "topo", "-m"], parse_nvidia_smi),
)


def _num_gpus(lines: list[list[str]]) -> int:
    return len({cells[0] for cells in lines if len(cells) > 1 and re.fullmatch(r"GPU\d+", cells[0])})


def _number(value: object) -> int | None:
    return int(str(value)) if str(value).isdigit() else None
