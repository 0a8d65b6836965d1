"""What a rank knows of itself without asking the others: device, versions, and the environment variables that matter."""

from __future__ import annotations

import os
import platform
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipelines.doctor.examination import RankFacts
from pipelines.doctor.topology import topology
from pipelines.provenance import processor_name

if TYPE_CHECKING:
    import torch


class Variable(NamedTuple):
    name: str
    meaning: str


# Sources: rocm.docs.amd.com (ROCm, HIP, ROCR-Runtime and RCCL environment variables, MI300X workload optimization), docs.pytorch.org
# (CUDA environment variables, torch.cuda.tunable), NCCL user guide (env), pytorch aten/src/ATen/Context.h.
ENVIRONMENT = (
    Variable("ROCR_VISIBLE_DEVICES", "GPUs shown to every ROCm program, by number or UUID; applied before HIP's"),
    Variable("HIP_VISIBLE_DEVICES", "GPUs shown to HIP programs, by number"),
    Variable("CUDA_VISIBLE_DEVICES", "the same for CUDA; HIP reads it too"),
    Variable("GPU_DEVICE_ORDINAL", "GPUs shown to HIP and OpenCL programs"),
    Variable("HSA_OVERRIDE_GFX_VERSION", "makes ROCm take the GPU for another architecture"),
    Variable("HSA_ENABLE_SDMA", "0: copies by kernels, not by the DMA engines"),
    Variable("HSA_ENABLE_PEER_SDMA", "0: copies between GPUs by kernels, not by the DMA engines"),
    Variable("HSA_NO_SCRATCH_RECLAIM", "1: a kernel's scratch memory stays with its queue"),
    Variable("HSA_FORCE_FINE_GRAIN_PCIE", "1: fine-grained memory over PCIe, for transfers between GPUs"),
    Variable("HSA_XNACK", "1: page faults on the GPU are served by moving the page"),
    Variable("GPU_MAX_HW_QUEUES", "most hardware queues a process gets on a device; AMD advises 2 where RCCL overlaps compute"),
    Variable("HIP_FORCE_DEV_KERNARG", "1: kernel arguments in device memory, which shortens launches"),
    Variable("HIP_LAUNCH_BLOCKING", "1: every launch waits for its end, for debugging"),
    Variable("AMD_SERIALIZE_KERNEL", "waits before and after kernels, for debugging"),
    Variable("PYTORCH_ALLOC_CONF", "PyTorch's memory allocator"),
    Variable("PYTORCH_HIP_ALLOC_CONF", "the same, an older name on ROCm"),
    Variable("PYTORCH_CUDA_ALLOC_CONF", "the same, an older name"),
    Variable("TORCH_BLAS_PREFER_HIPBLASLT", "1: matrix products by hipBLASLt, 0: by rocBLAS; unset: by architecture"),
    Variable("PYTORCH_TUNABLEOP_ENABLED", "1: matrix products by the kernels found fastest by trying"),
    Variable("PYTORCH_TUNABLEOP_TUNING", "0: use what was found, try nothing new"),
    Variable("PYTORCH_TUNABLEOP_FILENAME", "where the found kernels are kept"),
    Variable("MIOPEN_FIND_MODE", "how MIOpen looks for convolution kernels"),
    Variable("TORCH_NCCL_HIGH_PRIORITY", "1: collectives on high-priority streams"),
    Variable("GLOO_SOCKET_IFNAME", "network interface of gloo, which carries control messages"),
    Variable("OMP_NUM_THREADS", "processor threads a rank; accelerate launch sets 1 where it is unset"),
    Variable("ACCELERATE_USE_CPU", "true: ranks stay on the processor"),
)
PREFIXES = ("NCCL_", "RCCL_")  # transports, interfaces, algorithms: all that is set is kept
NAMES_A_HOST = ("NCCL_HOSTID", "NCCL_COMM_ID")


def rank_facts(rank: int, device: torch.device) -> RankFacts:
    """This rank's facts, still without figures. Asks the vendor's program on the first rank of a host only."""
    import torch

    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    known: dict[str, Any] = {}
    if device.type == "cuda":
        found: Any = torch.cuda.get_device_properties(device)
        bus = _pci_bus(found)
        known = {
            "device_name": found.name,
            "arch": getattr(found, "gcnArchName", None) if torch.version.hip else f"sm_{found.major}{found.minor}",
            "memory_bytes": found.total_memory,
            "pci_bus": bus,
            "numa_node": _integer(Path(f"/sys/bus/pci/devices/{bus}/numa_node")),
        }
    return RankFacts(
        rank=rank,
        local_rank=local_rank,
        host=socket.gethostname(),
        device=str(device),
        **{"device_name": processor_name(), **known},
        num_visible_gpus=torch.cuda.device_count(),
        num_host_gpus=num_host_gpus(),
        numa_balancing=_flag(Path("/proc/sys/kernel/numa_balancing")),
        versions=_versions(),
        environment=environment(os.environ),
        dtype="float32" if device.type == "cpu" else "bfloat16",
        topology=topology() if local_rank == 0 else None,
    )


def environment(variables: os._Environ[str] | dict[str, str]) -> dict[str, str]:
    """Those set of the variables that matter."""
    known = [v.name for v in ENVIRONMENT] + sorted(k for k in variables if k.startswith(PREFIXES) and k not in NAMES_A_HOST)
    return {name: variables[name] for name in known if name in variables}


def num_host_gpus(sys: Path = Path("/sys"), proc: Path = Path("/proc")) -> int | None:
    """GPUs that the kernel's drivers know, whatever the process may see; None where there is no such driver.

    ROCm: nodes of /sys/class/kfd with shader units (a processor's node has none). NVIDIA: folders of /proc/driver/nvidia/gpus.
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


def _pci_bus(found: Any) -> str | None:
    try:
        return f"{found.pci_domain_id:04x}:{found.pci_bus_id:02x}:{found.pci_device_id:02x}.0"
    except AttributeError:
        return None


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
