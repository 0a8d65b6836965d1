"""Facts of a rank: device, versions, and the environment variables that matter."""

from __future__ import annotations

import os
import platform
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.devices.accelerators import pci_bus
from pipelines.devices.environment import ENVIRONMENT
from pipelines.devices.system import cpu_name
from pipelines.doctor.examination import RankFacts
from pipelines.doctor.topology import topology

if TYPE_CHECKING:
    import torch


PREFIXES = ("NCCL_", "RCCL_")  # transports, interfaces, algorithms: all that are set are kept
NAMES_A_HOST = ("NCCL_HOSTID", "NCCL_COMM_ID")


def rank_facts(rank: int, device: torch.device) -> RankFacts:
    """This rank's facts, still without figures. Runs the vendor's program on the first rank of a host only."""
    import torch

    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    known: dict[str, Any] = {}
    if device.type == "cuda":
        properties: Any = torch.cuda.get_device_properties(device)
        bus = f"{place}.0" if (place := pci_bus(properties)) else None
        known = {
            "device_name": properties.name,
            "arch": getattr(properties, "gcnArchName", None) if torch.version.hip else f"sm_{properties.major}{properties.minor}",
            "memory_bytes": properties.total_memory,
            "pci_bus": bus,
            "numa_node": _integer(Path(f"/sys/bus/pci/devices/{bus}/numa_node")),
        }
    return RankFacts(
        rank=rank,
        local_rank=local_rank,
        host=socket.gethostname(),
        device=str(device),
        **{"device_name": cpu_name(), **known},
        num_visible_gpus=torch.cuda.device_count(),
        num_host_gpus=num_host_gpus(),
        numa_balancing=_flag(Path("/proc/sys/kernel/numa_balancing")),
        versions=_versions(),
        environment=environment(os.environ),
        dtype="float32" if device.type == "cpu" else "bfloat16",
        topology=topology() if local_rank == 0 else None,
    )


def environment(variables: os._Environ[str] | dict[str, str]) -> dict[str, str]:
    """The variables that matter and are set."""
    known = [v.name for v in ENVIRONMENT] + sorted(k for k in variables if k.startswith(PREFIXES) and k not in NAMES_A_HOST)
    return {name: variables[name] for name in known if name in variables}


def num_host_gpus(sys: Path = Path("/sys"), proc: Path = Path("/proc")) -> int | None:
    """GPUs that the kernel's drivers list, visible to the process or not; None where there is no such driver.

    ROCm: nodes of /sys/class/kfd with shader units (a CPU's node has none). NVIDIA: folders of /proc/driver/nvidia/gpus.
    """
    nodes = [_text(file) or "" for file in sys.glob("class/kfd/kfd/topology/nodes/*/properties")]
    amd = sum(bool(re.search(r"^simd_count [1-9]", text, re.MULTILINE)) for text in nodes)
    nvidia = len(list(proc.glob("driver/nvidia/gpus/*")))
    return amd + nvidia or (0 if nodes else None)


def _versions() -> dict[str, str | None]:
    import torch

    collectives: Any = None
    if torch.cuda.is_available():
        collectives = ".".join(map(str, torch.cuda.nccl.version()))
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "hip": torch.version.hip,
        "cuda": torch.version.cuda,
        "rocm": _text(Path("/opt/rocm/.info/version")),
        "rccl" if torch.version.hip else "nccl": collectives,
        "driver": _driver(),
        "kernel": platform.release(),
    }


def _driver() -> str | None:
    """amdgpu's own version where it is not the kernel's, NVIDIA's module version."""
    if version := _text(Path("/sys/module/amdgpu/version")):
        return f"amdgpu {version}"
    version = _text(Path("/sys/module/nvidia/version"))
    return f"nvidia {version}" if version else None


def _integer(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text and text.lstrip("-").isdigit() and int(text) >= 0 else None


def _flag(path: Path) -> bool | None:
    text = _text(path)
    return None if text is None else text != "0"


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
