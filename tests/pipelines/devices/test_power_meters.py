"""Power meters against what amdsmi, NVML and Linux's powercap give.

Structures: amdsmi 7.0.2 (amdsmi_interface.py), nvidia-ml-py 13.615 (pynvml.py), powercap.rst of Linux.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipelines.devices.power_meters import MeterError, RaplMeter, find_meter
from tests.pipelines.devices.powercap import write_package

GPU = torch.device("cuda", 0)
BUS = SimpleNamespace(pci_domain_id=0, pci_bus_id=0xC1, pci_device_id=0)


class NotSupportedError(Exception):
    """As amdsmi's AmdSmiLibraryException and pynvml's NVMLError_NotSupported are raised."""


def not_supported(*_: object) -> Any:
    raise NotSupportedError("not supported")


def fake_amdsmi(**changed: Any) -> SimpleNamespace:
    """An MI300X: amdsmi_get_violation_status is cut down to what is read of its 40 keys."""
    functions = {
        "amdsmi_init": lambda: None,
        "amdsmi_get_processor_handles": lambda: ["handle"],
        "amdsmi_get_gpu_device_bdf": lambda handle: "0000:c1:00.0",
        "amdsmi_get_power_cap_info": lambda handle: {"power_cap": 750000000, "default_power_cap": 750000000, "dpm_cap": 2100},
        "amdsmi_get_energy_count": lambda handle: {
            "energy_accumulator": 123_456_789_000,
            "counter_resolution": 15.259,
            "timestamp": 1_234_567_890_123,
        },
        "amdsmi_get_power_info": lambda handle: {
            "socket_power": 612,
            "current_socket_power": 612,
            "average_socket_power": "N/A",
            "gfx_voltage": "N/A",
            "soc_voltage": "N/A",
            "mem_voltage": "N/A",
            "power_limit": 750,
        },
        "amdsmi_get_clock_info": lambda handle, kind: {
            "clk": {"GFX": 2100, "MEM": "N/A"}[kind],
            "min_clk": 132,
            "max_clk": 2100,
            "clk_locked": False,
            "clk_deep_sleep": "N/A",
        },
        "amdsmi_get_temp_metric": lambda handle, sensor, metric: 71,
        "amdsmi_get_gpu_memory_usage": lambda handle, kind: 150 * 2**30,
        "amdsmi_get_violation_status": lambda handle: {
            "active_prochot_thrm": False,
            "active_ppt_pwr": True,
            "active_socket_thrm": "N/A",
            "active_vr_thrm": False,
            "active_hbm_thrm": True,
            "per_ppt_pwr": 12,
        },
        "AmdSmiClkType": SimpleNamespace(GFX="GFX", MEM="MEM"),
        "AmdSmiTemperatureType": SimpleNamespace(HOTSPOT=1),
        "AmdSmiTemperatureMetric": SimpleNamespace(CURRENT=0),
        "AmdSmiMemoryType": SimpleNamespace(VRAM=0),
    }
    return SimpleNamespace(**{**functions, **changed})


def fake_nvml(**changed: Any) -> SimpleNamespace:
    """An H100."""
    functions = {
        "nvmlInit": lambda: None,
        "nvmlDeviceGetHandleByPciBusId": lambda bus: {"0000:c1:00.0": "handle"}[bus],
        "nvmlDeviceGetMigMode": lambda handle: [0, 0],
        "nvmlDeviceGetEnforcedPowerLimit": lambda handle: 700000,
        "nvmlDeviceGetTotalEnergyConsumption": lambda handle: 987654321,
        "nvmlDeviceGetPowerUsage": lambda handle: 433210,
        "nvmlDeviceGetCurrentClocksEventReasons": lambda handle: 0x01 | 0x04 | 0x40,
        "nvmlDeviceGetClockInfo": lambda handle, kind: {1: 1980, 2: 2619}[kind],
        "nvmlDeviceGetTemperature": lambda handle, sensor: 58,
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(total=85520809984, free=0, used=71 * 2**30),
        "NVML_CLOCK_SM": 1,
        "NVML_CLOCK_MEM": 2,
        "NVML_TEMPERATURE_GPU": 0,
    }
    return SimpleNamespace(**{**functions, **changed})


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Any], None]:
    """Let torch see one GPU, of AMD's where amdsmi is installed, else of NVIDIA's."""

    def put(name: str, library: Any) -> None:
        monkeypatch.setattr(torch.version, "hip", "7.2.4" if name == "amdsmi" else None)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: BUS)
        monkeypatch.setitem(sys.modules, name, library)

    return put


def test_an_amd_gpu_is_read_in_joules_watts_and_megahertz(install: Callable[[str, Any], None], tmp_path: Path) -> None:
    install("amdsmi", fake_amdsmi())
    meter = find_meter(GPU, tmp_path)
    assert (meter.source, meter.device, meter.limit_w) == ("amdsmi", "0000:c1:00", 750.0)
    assert meter.energy_and_power() == {"power_w": 612.0, "energy_j": pytest.approx(123_456_789_000 * 15.259e-6)}
    assert meter.state() == {
        "clock_mhz": 2100.0,
        "memory_clock_mhz": None,
        "temperature_c": 71.0,
        "memory_bytes": 150 * 2**30,
        "throttled": ["ppt_pwr", "hbm_thrm"],
    }


def test_older_amd_gpus_are_read_for_what_they_report(install: Callable[[str, Any], None], tmp_path: Path) -> None:
    power = {"current_socket_power": 0xFFFFFFFF, "average_socket_power": 212, "power_limit": 300}
    old = fake_amdsmi(
        amdsmi_get_energy_count=lambda handle: {"power": 1_000_000, "counter_resolution": 15.3, "timestamp": 1},  # before 6.2.1
        amdsmi_get_power_info=lambda handle: power,
        amdsmi_get_violation_status=not_supported,
        amdsmi_get_power_cap_info=lambda handle: {"power_cap": 300},  # in watts
    )
    install("amdsmi", old)
    meter = find_meter(GPU, tmp_path)
    assert meter.energy_and_power() == {"power_w": 212.0, "energy_j": pytest.approx(15.3)}
    assert "throttled" not in meter.state()
    assert meter.limit_w == 300.0
    install("amdsmi", fake_amdsmi(amdsmi_get_energy_count=not_supported))  # as in a virtual machine
    assert find_meter(GPU, tmp_path).energy_and_power() == {"power_w": 612.0}


def test_amdsmi_that_another_part_of_the_process_shut_down_is_opened_again(install: Callable[[str, Any], None], tmp_path: Path) -> None:
    shut = [False]

    def power_info(handle: str) -> dict[str, int]:
        return not_supported() if shut[0] else {"current_socket_power": 500}

    install("amdsmi", fake_amdsmi(amdsmi_get_power_info=power_info, amdsmi_init=lambda: shut.__setitem__(0, False)))
    meter = find_meter(GPU, tmp_path)
    shut[0] = True
    assert meter.energy_and_power()["power_w"] == 500.0


def test_an_nvidia_gpu_is_read_in_joules_watts_and_megahertz(install: Callable[[str, Any], None], tmp_path: Path) -> None:
    install("pynvml", fake_nvml())
    meter = find_meter(GPU, tmp_path)
    assert (meter.source, meter.device, meter.limit_w) == ("nvml", "0000:c1:00", 700.0)
    assert meter.energy_and_power() == {"energy_j": 987654.321, "power_w": 433.21}
    assert meter.state() == {
        "clock_mhz": 1980.0,
        "memory_clock_mhz": 2619.0,
        "temperature_c": 58.0,
        "memory_bytes": 71 * 2**30,
        "throttled": ["sw_power_cap", "hw_thermal"],  # idling is none
    }


@pytest.mark.parametrize(
    ("name", "library", "why"),
    [
        ("pynvml", None, "nvml is not installed: pip install nvidia-ml-py"),
        ("amdsmi", None, "amdsmi is not installed: pip install amdsmi"),
        ("pynvml", fake_nvml(nvmlDeviceGetMigMode=lambda handle: [1, 1]), "partitioned by MIG"),
        ("pynvml", fake_nvml(nvmlInit=not_supported), "nvml does not answer for device 0000:c1:00: NotSupportedError"),
        ("amdsmi", fake_amdsmi(amdsmi_get_gpu_device_bdf=lambda handle: "0000:05:00.0"), "has no device 0000:c1:00, only 0000:05:00.0"),
    ],
)
def test_a_gpu_that_cannot_be_measured_says_why(
    install: Callable[[str, Any], None], tmp_path: Path, name: str, library: Any, why: str
) -> None:
    install(name, library)
    with pytest.raises(MeterError, match=why) as found:
        find_meter(GPU, tmp_path)
    assert not found.value.expected  # a GPU without its figure is reported


def test_a_cpus_packages_are_summed_and_their_parts_are_not(tmp_path: Path) -> None:
    write_package(tmp_path, 0, 1000.0)
    write_package(tmp_path, 1, 500.0, "package-1")
    write_package(tmp_path, 2, 9999.0, "psys")
    (tmp_path / "intel-rapl:0:0").mkdir()
    (tmp_path / "intel-rapl:0:0/name").write_text("core\n", encoding="utf-8")
    meter = RaplMeter(tmp_path)
    assert meter.energy_and_power() == {"energy_j": 1500.0}
    assert meter.limit_w == 300.0
