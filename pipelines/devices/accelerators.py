"""The accelerators that a process sees, and what each architecture can compute.

PyTorch lists the devices: torch.version.hip says whether they are AMD's, and ROCm's devices are called cuda there too. The
vendor's library (amdsmi, or nvidia-ml-py) adds what PyTorch does not know, where it is installed. Options that an architecture does
not support are refused by name: `require`.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from configs.errors import ConfigError

if TYPE_CHECKING:
    import torch


class Architecture(NamedTuple):
    """models: products that have it. can: names of FEATURES."""

    models: str
    can: frozenset[str]


FEATURES = {
    "fp8_fnuz": "matrix products of fp8 in the fnuz form (float8_e4m3fnuz, float8_e5m2fnuz)",
    "fp8_ocp": "matrix products of fp8 in the OCP form (float8_e4m3fn, float8_e5m2)",
    "mxfp8": "matrix products of MXFP8",
    "mxfp6": "matrix products of MXFP6",
    "mxfp4": "matrix products of MXFP4",
    "nvfp4": "matrix products of NVFP4",
    "aiter": "AITER's kernels",
    "quick_reduce": "sums over GPUs by quick reduce",
}
_FORMATS = frozenset(FEATURES) - {"aiter", "quick_reduce"}
_BLACKWELL = frozenset({"fp8_ocp", "mxfp8", "mxfp6", "mxfp4", "nvfp4"})
# Sources: AMD CDNA3 and CDNA4 instruction set references (V_MFMA_*_FP8_FP8, V_MFMA_SCALE_F32_*_F8F6F4), ROCm documentation, "Data types
# and precision support", which has fnuz for CDNA3 and OCP for CDNA4 and RDNA4; AITER's README (gfx942, gfx950); NVIDIA PTX ISA, mma and
# tcgen05.mma: e4m3 from sm_89, .kind::mxf8f6f4, mxf4 and mxf4nvf4 from sm_100 and sm_120. A CPU converts every format, slowly.
ARCHITECTURES: Mapping[str, Architecture] = {
    "cpu": Architecture("a CPU", _FORMATS),
    "gfx90a": Architecture("MI210, MI250, MI250X", frozenset()),
    "gfx942": Architecture("MI300A, MI300X, MI325X", frozenset({"fp8_fnuz", "aiter", "quick_reduce"})),
    "gfx950": Architecture("MI350X, MI355X", frozenset({"fp8_ocp", "mxfp8", "mxfp6", "mxfp4", "aiter", "quick_reduce"})),
    "gfx1100": Architecture("RX 7900, W7900", frozenset()),
    "gfx1101": Architecture("RX 7800, W7700", frozenset()),
    "gfx1200": Architecture("RX 9060", frozenset({"fp8_ocp"})),
    "gfx1201": Architecture("RX 9070, R9700", frozenset({"fp8_ocp"})),
    "sm_80": Architecture("A100", frozenset()),
    "sm_86": Architecture("A10, A40, RTX 30", frozenset()),
    "sm_89": Architecture("L4, L40S, RTX 40", frozenset({"fp8_ocp"})),
    "sm_90": Architecture("H100, H200", frozenset({"fp8_ocp"})),
    "sm_100": Architecture("B200, GB200", _BLACKWELL),
    "sm_103": Architecture("B300, GB300", _BLACKWELL),
    "sm_120": Architecture("RTX 50, RTX PRO 6000", _BLACKWELL),
}


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One visible device. pci_bus: without the function, which is a partition's. told_by: the library that added what PyTorch lacks.

    architecture: as PyTorch has it, which HSA_OVERRIDE_GFX_VERSION may change. hardware: as the vendor's library has it.
    partition: of an Instinct GPU, such as SPX or CPX. power_limit_w: at present.
    """

    name: str
    architecture: str
    memory_bytes: int
    pci_bus: str | None
    told_by: str = "torch"
    hardware: str | None = None
    driver: str | None = None
    partition: str | None = None
    power_limit_w: float | None = None


def accelerators() -> list[dict[str, Any]]:
    """Every device that this process sees, as it goes into system.json; empty on a CPU."""
    import torch

    if not torch.cuda.is_available():
        return []
    ask = _of_amd if torch.version.hip else _of_nvidia
    devices = []
    for index in range(torch.cuda.device_count()):
        seen: Any = torch.cuda.get_device_properties(index)
        bus, more = pci_bus(seen), dict[str, Any]()
        with contextlib.suppress(Exception):  # whatever a library without its driver raises; PyTorch's facts are enough to run
            more = ask(bus) if bus else {}
        devices.append(Accelerator(seen.name, _architecture(seen), seen.total_memory, bus, **more))
    return [asdict(one) for one in devices]


def architecture(device: torch.device) -> str:
    """gfx942, sm_90 and the like; `cpu` for a CPU."""
    import torch

    return "cpu" if device.type == "cpu" else _architecture(torch.cuda.get_device_properties(device))


def can(device: torch.device, feature: str) -> bool:
    """Whether the device has the feature, of FEATURES. An architecture that is not in the table is taken to have all of them."""
    assert feature in FEATURES
    known = ARCHITECTURES.get(architecture(device))
    return known is None or feature in known.can


def require(what: str, device: torch.device, feature: str) -> None:
    """Refuse an option whose feature the device lacks: ConfigError, with the devices that have it. what: the option, by name."""
    if can(device, feature):
        return
    name = architecture(device)
    has = sorted(ARCHITECTURES[name].can & _FORMATS)
    others = ", ".join(f"{n} ({a.models})" for n, a in ARCHITECTURES.items() if feature in a.can and n != "cpu")
    raise ConfigError(
        f"{what} needs {FEATURES[feature]}, which {name} ({ARCHITECTURES[name].models}) lacks; "
        f"it has {', '.join(has) or 'no format under 16 bits but int8'}. Leave the option out, or run on {others}."
    )


def pci_bus(properties: Any) -> str | None:
    """`0000:c1:00` of torch's device properties; None where this PyTorch does not report it."""
    try:
        return f"{properties.pci_domain_id:04x}:{properties.pci_bus_id:02x}:{properties.pci_device_id:02x}"
    except AttributeError:
        return None


def amdsmi() -> Any:
    """AMD's library, initialised. Raises whatever it raises: ImportError, or OSError, KeyError and others without its driver."""
    with contextlib.redirect_stdout(io.StringIO()):  # it prints there where it does not find libamd_smi.so
        library = importlib.import_module("amdsmi")
        library.amdsmi_init()
    return library


def amd_handle(library: Any, bus: str) -> Any:
    """amdsmi's handle of the device on that bus, of the first of its partitions. Raises LookupError where there is none."""
    handles = {library.amdsmi_get_gpu_device_bdf(handle): handle for handle in library.amdsmi_get_processor_handles()}
    fitting = sorted(bdf for bdf in handles if bdf.rpartition(".")[0].lower() == bus)
    if not fitting:
        raise LookupError(f"amdsmi has no device {bus}, only {', '.join(sorted(handles)) or 'none'}")
    return handles[fitting[0]]


def nvml() -> Any:
    """NVIDIA's library, initialised. Raises ImportError, or its own NVMLError without a driver."""
    library = importlib.import_module("pynvml")
    library.nvmlInit()
    return library


def amd_power_limit_w(library: Any, handle: Any) -> float | None:
    """amdsmi gives microwatts since ROCm 6, watts before; no device has a limit of 100 kW or more, or of 0.1 W or less."""
    value = library.amdsmi_get_power_cap_info(handle)["power_cap"]
    if not isinstance(value, int | float) or value <= 0:
        return None
    return value / 1e6 if value > 1e5 else float(value)


def _of_amd(bus: str) -> dict[str, Any]:
    library = amdsmi()
    handle = amd_handle(library, bus)
    facts: dict[str, Any] = {"told_by": "amdsmi", "hardware": library.amdsmi_get_gpu_asic_info(handle)["target_graphics_version"]}
    with contextlib.suppress(Exception):  # partitions are Instinct's alone, and a guest may not know of limits
        facts["driver"] = f"amdgpu {library.amdsmi_get_gpu_driver_info(handle)['driver_version']}"
        facts["power_limit_w"] = amd_power_limit_w(library, handle)
        facts["partition"] = library.amdsmi_get_gpu_compute_partition(handle)
    return facts


def _of_nvidia(bus: str) -> dict[str, Any]:
    library = nvml()
    handle = library.nvmlDeviceGetHandleByPciBusId(f"{bus}.0")
    major, minor = library.nvmlDeviceGetCudaComputeCapability(handle)
    facts: dict[str, Any] = {
        "told_by": "nvml",
        "hardware": f"sm_{major}{minor}",
        "driver": f"nvidia {library.nvmlSystemGetDriverVersion()}",
    }
    with contextlib.suppress(Exception):  # a guest may not know of limits
        facts["power_limit_w"] = library.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000
    return facts


def _architecture(properties: Any) -> str:
    import torch

    if torch.version.hip:
        return str(properties.gcnArchName).partition(":")[0]
    return f"sm_{properties.major}{properties.minor}"
