"""Meters against what amdsmi, NVML and Linux's powercap give, and one run that is measured by a counter made here.

Structures: amdsmi 7.0.2 (amdsmi_interface.py), nvidia-ml-py 13.615 (pynvml.py), powercap.rst of Linux.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from configs.errors import ConfigError
from configs.settings import PowerSettings
from pipelines.devices.power_meters import MeterError, RaplMeter, find_meter
from pipelines.launcher.worker.clock_sync import ConductorClock
from pipelines.launcher.worker.power_sampler import PowerSampler, power_sampler
from tests.conftest import SuiteRun, last_line, read_report
from workloads.run_folder.power_log import MeterFacts, PowerLog, PowerSample, read_power

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
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


def write_package(powercap: Path, number: int = 0, energy_j: float = 1000.0, name: str = "package-0") -> Path:
    zone = powercap / f"intel-rapl:{number}"
    zone.mkdir(parents=True, exist_ok=True)
    files = {
        "name": name,
        "energy_uj": f"{energy_j * 1e6:.0f}",
        "max_energy_range_uj": "262143328850",
        "constraint_0_power_limit_uw": "150000000",
    }
    for file, text in files.items():
        (zone / file).write_text(f"{text}\n", encoding="utf-8")
    return zone / "energy_uj"


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


def test_older_and_lesser_amd_gpus_are_read_for_what_they_tell(install: Callable[[str, Any], None], tmp_path: Path) -> None:
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
        ("pynvml", fake_nvml(nvmlDeviceGetMigMode=lambda handle: [1, 1]), "cut up by MIG"),
        ("pynvml", fake_nvml(nvmlInit=not_supported), "nvml does not answer for device 0000:c1:00: NotSupportedError"),
        ("amdsmi", fake_amdsmi(amdsmi_get_gpu_device_bdf=lambda handle: "0000:05:00.0"), "knows no device 0000:c1:00, only 0000:05:00.0"),
    ],
)
def test_a_gpu_that_cannot_be_measured_says_why(
    install: Callable[[str, Any], None], tmp_path: Path, name: str, library: Any, why: str
) -> None:
    install(name, library)
    with pytest.raises(MeterError, match=why) as found:
        find_meter(GPU, tmp_path)
    assert not found.value.expected  # a GPU without its figure is worth a word in the report


def test_a_processors_packages_are_added_up_and_their_parts_are_not(tmp_path: Path) -> None:
    write_package(tmp_path, 0, 1000.0)
    write_package(tmp_path, 1, 500.0, "package-1")
    write_package(tmp_path, 2, 9999.0, "psys")
    (tmp_path / "intel-rapl:0:0").mkdir()
    (tmp_path / "intel-rapl:0:0/name").write_text("core\n", encoding="utf-8")
    meter = RaplMeter(tmp_path)
    assert meter.energy_and_power() == {"energy_j": 1500.0}
    assert meter.limit_w == 300.0


def test_a_processor_without_a_counter_is_left_alone_unless_it_must_be_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = PowerSettings.model_validate({"powercap": str(tmp_path / "none")})
    facts = power_sampler(settings, 0, CPU).facts
    assert facts.off
    assert "no intel-rapl package" in str(facts.error)
    assert not capsys.readouterr().err
    with pytest.raises(ConfigError, match="but cpu cannot be measured:"):
        power_sampler(PowerSettings.model_validate({"sample": "always", "powercap": str(tmp_path / "none")}), 0, CPU)


def test_samples_are_brought_to_the_conductors_clock_and_end_with_a_last_look(tmp_path: Path) -> None:
    counter = write_package(tmp_path)
    sampler = PowerSampler(MeterFacts(0, "rapl"), RaplMeter(tmp_path), 1.0)
    sampler.start()
    clock = ConductorClock()
    while not sampler._samples:
        time.sleep(0.005)
    assert sampler.take(clock) == []  # how the clocks stand is not known yet
    clock.hear(10.0, 1010.001, 10.002)
    write_package(tmp_path, energy_j=1100.0)
    counter.write_text("not a number", encoding="utf-8")
    sampler.stop()
    first, last = sampler.take(clock)
    assert first.energy_j == 1000.0
    assert abs(first.at_s - 1000.0 - time.perf_counter()) < 5
    assert "ValueError" in str(last.error)
    assert last.at_s > first.at_s


def test_samples_from_before_the_first_query_are_held_until_its_time_is_known(tmp_path: Path) -> None:
    log = PowerLog(tmp_path, "performance")
    log.take(0, [PowerSample(100.0 + i, energy_j=float(i)) for i in range(50)], None)
    assert not (tmp_path / "power.jsonl").exists()
    log.take(0, [PowerSample(150.0, energy_j=50.0)], 149.5)
    samples = read_power(tmp_path, "performance")[0]
    assert [(s.at_s, s.energy_j) for s in samples[-2:]] == [(-0.5, 49.0), (0.5, 50.0)]
    assert len(samples) == 21
    assert read_power(tmp_path, "accuracy") == {}
    with (tmp_path / "power.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"mode": "perf')  # cut off by a crash
    assert len(read_power(tmp_path, "performance")[0]) == 21


@pytest.fixture
def hundred_watts(tmp_path: Path) -> Iterator[Path]:
    """A powercap tree whose counter rises by 100 J a second."""
    counter = write_package(tmp_path / "powercap")
    over, began = threading.Event(), time.perf_counter()

    def rise() -> None:
        new = counter.with_name("new")
        while not over.wait(0.02):
            new.write_text(f"{1e9 + 100e6 * (time.perf_counter() - began):.0f}", encoding="utf-8")
            new.replace(counter)

    thread = threading.Thread(target=rise)
    thread.start()
    yield tmp_path / "powercap"
    over.set()
    thread.join()


def test_a_measured_run_reports_the_power_that_the_counter_had(suite: SuiteRun, hundred_watts: Path) -> None:
    done = suite(
        *("--config", "llm/toy", "--set", "metrics=[throughput, energy]", "--set", "load.min_duration_s=1.5", "--set", "truth.replays=0"),
        *("--set", f"power.powercap={hundred_watts}", "--set", "power.sample=always", "--set", "power.interval_s=0.05"),
    )
    assert done.returncode == 0, done.stderr
    figures = read_report(done)["figures"]
    assert figures["mean_power"]["value"] == pytest.approx(100, rel=0.25)
    assert figures["energy_per_token"]["value"] == pytest.approx(100 / figures["tokens_per_s"]["value"], rel=0.25)
    assert figures["energy_valid"]["value"] == 1.0
    manifest = json.loads((Path(last_line(done)["run"]) / "manifest.json").read_text(encoding="utf-8"))
    assert "power.jsonl" in manifest["files"]
