"""The power sampler, and one run that is measured by a counter made here."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from configs.errors import ConfigError
from configs.settings import PowerSettings
from pipelines.devices.power_meters import RaplMeter
from pipelines.launcher.worker.clock_sync import ConductorClock
from pipelines.launcher.worker.power_sampler import PowerSampler, power_sampler
from tests.conftest import SuiteRun, last_line, read_report
from tests.pipelines.devices.powercap import write_package
from workloads.run_folder.power_log import MeterFacts

CPU = torch.device("cpu")


def test_a_cpu_without_a_counter_is_not_measured_unless_it_has_to_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
    clock.add_round_trip(10.0, 1010.001, 10.002)
    write_package(tmp_path, energy_j=1100.0)
    counter.write_text("not a number", encoding="utf-8")
    sampler.stop()
    first, last = sampler.take(clock)
    assert first.energy_j == 1000.0
    assert abs(first.at_s - 1000.0 - time.perf_counter()) < 5
    assert "ValueError" in str(last.error)
    assert last.at_s > first.at_s


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
        *("--config", "llm/toy", "--set", "metrics=[throughput, energy]", "--set", "load.min_duration_s=1", "--set", "truth.replays=0"),
        *("--set", f"power.powercap={hundred_watts}", "--set", "power.sample=always", "--set", "power.interval_s=0.05"),
    )
    assert done.returncode == 0, done.stderr
    figures = read_report(done)["figures"]
    assert figures["mean_power"]["value"] == pytest.approx(100, rel=0.25)
    assert figures["energy_per_token"]["value"] == pytest.approx(100 / figures["tokens_per_s"]["value"], rel=0.25)
    assert figures["energy_valid"]["value"] == 1.0
    manifest = json.loads((Path(last_line(done)["run"]) / "manifest.json").read_text(encoding="utf-8"))
    assert "power.jsonl" in manifest["files"]
