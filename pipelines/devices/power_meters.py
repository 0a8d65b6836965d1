"""Power meters of one device: energy counter, power, clocks, temperature, throttling, memory.

  amdsmi   an Instinct or Radeon GPU: the counter of its socket, the whole module with its memory
  nvml     an NVIDIA GPU, by nvidia-ml-py: the counter of the board since the driver was loaded
  rapl     a CPU, by Linux's powercap: the counters of all its packages, without memory modules; whatever else runs there counts too

Both libraries are thin bindings of their vendor's. Zeus (zeus-ml) was considered: it sums windows over them and brings pandas
and scikit-learn; it gives no samples on a run's clock, from which these figures are computed.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from pipelines.devices.accelerators import amd_handle, amd_power_limit_w, amdsmi, nvml, pci_bus

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
Values = dict[str, Any]  # by the names of PowerSample's fields

# Of amdsmi_get_violation_status, each under `active_`.
AMD_VIOLATIONS = ("prochot_thrm", "ppt_pwr", "socket_thrm", "vr_thrm", "hbm_thrm")
# Bits of nvmlDeviceGetCurrentClocksEventReasons (nvml.h); idle clocks, and clocks that an administrator set, are not throttling.
NVIDIA_REASONS = {0x04: "sw_power_cap", 0x08: "hw_slowdown", 0x20: "sw_thermal", 0x40: "hw_thermal", 0x80: "hw_power_brake"}


class MeterError(Exception):
    """Why a device cannot be measured, with the fix. expected: devices of its kind usually cannot, as most CPUs."""

    def __init__(self, why: str, expected: bool = False) -> None:
        super().__init__(why)
        self.expected = expected


class Meter(ABC):
    """device: a name that all ranks that share the counter use. limit_w: the power limit, where the device reports it."""

    source: ClassVar[str]
    device: str
    limit_w: float | None = None

    @abstractmethod
    def energy_and_power(self) -> Values:
        """energy_j, power_w: those that the device reports. Raises where it does not answer."""

    def state(self) -> Values:
        """Clocks, temperature, throttling, memory: those that the device reports."""
        return {}


class AmdMeter(Meter):
    source = "amdsmi"

    def __init__(self, bus: str) -> None:
        self.device = bus
        self._open()
        self.limit_w = _maybe(lambda: amd_power_limit_w(self._library, self._handle))

    def energy_and_power(self) -> Values:
        try:
            return self._energy_and_power()
        except Exception:  # an engine in this process may have shut the library down: try once more
            self._open()
            return self._energy_and_power()

    def state(self) -> Values:
        smi, handle = self._library, self._handle
        values: Values = {
            "clock_mhz": _maybe(lambda: _number(smi.amdsmi_get_clock_info(handle, smi.AmdSmiClkType.GFX)["clk"])),
            "memory_clock_mhz": _maybe(lambda: _number(smi.amdsmi_get_clock_info(handle, smi.AmdSmiClkType.MEM)["clk"])),
            "temperature_c": _maybe(
                lambda: _number(smi.amdsmi_get_temp_metric(handle, smi.AmdSmiTemperatureType.HOTSPOT, smi.AmdSmiTemperatureMetric.CURRENT))
            ),
            "memory_bytes": _maybe(lambda: int(smi.amdsmi_get_gpu_memory_usage(handle, smi.AmdSmiMemoryType.VRAM))),
        }
        violations = _maybe(lambda: smi.amdsmi_get_violation_status(handle))
        if violations is not None:
            values["throttled"] = [name for name in AMD_VIOLATIONS if violations.get(f"active_{name}") is True]
        return values

    def _open(self) -> None:
        self._library = amdsmi()
        self._handle = amd_handle(self._library, self.device)

    def _energy_and_power(self) -> Values:
        counter = _maybe(lambda: self._library.amdsmi_get_energy_count(self._handle))
        power = self._library.amdsmi_get_power_info(self._handle)
        watts = (_number(power.get(name)) for name in ("current_socket_power", "average_socket_power"))
        values = {"power_w": next((w for w in watts if w), None)}
        if counter is not None:  # `power` was the counter's name before amdsmi 6.2.1; counts are of counter_resolution microjoules
            count = counter["energy_accumulator"] if "energy_accumulator" in counter else counter["power"]
            values["energy_j"] = count * counter["counter_resolution"] / 1e6
        return values


class NvidiaMeter(Meter):
    source = "nvml"

    def __init__(self, bus: str) -> None:
        self.device, self._library = bus, nvml()
        self._handle = self._library.nvmlDeviceGetHandleByPciBusId(f"{bus}.0")
        if _maybe(lambda: self._library.nvmlDeviceGetMigMode(self._handle)[0]):
            raise MeterError("the GPU is partitioned by MIG, and its counter covers all partitions; measure with MIG off")
        self.limit_w = _maybe(lambda: self._library.nvmlDeviceGetEnforcedPowerLimit(self._handle) / 1000)

    def energy_and_power(self) -> Values:
        smi, handle = self._library, self._handle
        values = {
            "energy_j": _maybe(lambda: smi.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000),  # from Volta on
            "power_w": _maybe(lambda: smi.nvmlDeviceGetPowerUsage(handle) / 1000),
        }
        if values == {"energy_j": None, "power_w": None}:
            smi.nvmlDeviceGetPowerUsage(handle)  # raises, with the reason
        return values

    def state(self) -> Values:
        smi, handle = self._library, self._handle
        reasons = _maybe(lambda: smi.nvmlDeviceGetCurrentClocksEventReasons(handle))
        if reasons is None:  # the older name, of drivers before 535
            reasons = _maybe(lambda: smi.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
        return {
            "clock_mhz": _maybe(lambda: float(smi.nvmlDeviceGetClockInfo(handle, smi.NVML_CLOCK_SM))),
            "memory_clock_mhz": _maybe(lambda: float(smi.nvmlDeviceGetClockInfo(handle, smi.NVML_CLOCK_MEM))),
            "temperature_c": _maybe(lambda: float(smi.nvmlDeviceGetTemperature(handle, smi.NVML_TEMPERATURE_GPU))),
            "memory_bytes": _maybe(lambda: int(smi.nvmlDeviceGetMemoryInfo(handle).used)),
            "throttled": None if reasons is None else [name for bit, name in NVIDIA_REASONS.items() if reasons & bit],
        }


class RaplMeter(Meter):
    """Source: Documentation/power/powercap/powercap.rst of Linux: energy_uj counts up to max_energy_range_uj and starts again at 0."""

    source = "rapl"
    device = "packages"

    def __init__(self, powercap: Path) -> None:
        zones = [zone for zone in sorted(powercap.glob("intel-rapl:*")) if zone.name.count(":") == 1]
        packages = [zone for zone in zones if _text(zone / "name").startswith("package")]
        self._counters = [zone / "energy_uj" for zone in packages]
        if not self._counters:
            raise MeterError(f"{powercap} has no intel-rapl package, as in most virtual machines and containers", expected=True)
        try:
            self.energy_and_power()
        except OSError as error:
            fix = f"let the user read it: chmod a+r {powercap}/intel-rapl:*/energy_uj"
            raise MeterError(f"{error.filename} cannot be read ({error.strerror}); {fix}", expected=True) from None
        limits = [_text(zone / "constraint_0_power_limit_uw") for zone in packages]  # the long-term one
        if all(limit.isdigit() and int(limit) for limit in limits):
            self.limit_w = sum(map(int, limits)) / 1e6

    def energy_and_power(self) -> Values:
        return {"energy_j": sum(int(counter.read_text(encoding="utf-8")) for counter in self._counters) / 1e6}


def find_meter(device: torch.device, powercap: Path) -> Meter:
    """The meter of that device. Raises MeterError."""
    if device.type == "cpu":
        return RaplMeter(powercap)
    import torch

    kind, package = (AmdMeter, "amdsmi") if torch.version.hip else (NvidiaMeter, "nvidia-ml-py")
    bus = pci_bus(torch.cuda.get_device_properties(device))
    if bus is None:
        raise MeterError("this PyTorch does not report the device's PCI bus, which identifies its meter; PyTorch 2.9 does")
    try:
        meter: Meter = kind(bus)
        meter.energy_and_power()
    except ImportError:
        raise MeterError(f"{kind.source} is not installed: pip install {package}, of the driver's version") from None
    except MeterError:
        raise
    except Exception as error:  # each library has its own error classes
        raise MeterError(f"{kind.source} does not answer for device {bus}: {type(error).__name__}: {error}") from None
    return meter


def _text(path: Path) -> str:
    """Empty where it cannot be read."""
    return _maybe(lambda: path.read_text(encoding="utf-8").strip()) or ""


def _maybe(read: Callable[[], T]) -> T | None:
    """The value that the device reports; None where it does not. Every device lacks some."""
    with contextlib.suppress(Exception):
        return read()
    return None


def _number(value: object) -> float | None:
    """None for what a device does not report: amdsmi gives `N/A` then, or the largest number of 16 or 32 bits."""
    unknown = not isinstance(value, int | float) or value in (0xFFFF, 0xFFFFFFFF)
    return None if unknown else float(value)  # type: ignore[arg-type]
