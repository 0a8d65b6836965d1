"""A thread that samples this rank's power meter while a test lasts."""

from __future__ import annotations

import os
import threading
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from configs.errors import ConfigError
from configs.output import say
from configs.settings import PowerSettings
from pipelines.devices.power_meters import Meter, MeterError, find_meter
from pipelines.launcher.worker.clock_sync import ConductorClock
from workloads.run_folder.power_log import MeterFacts, PowerSample

if TYPE_CHECKING:
    import torch

STATE_EVERY_S = 1.0  # clocks, temperature and the like; energy and power in every sample


class PowerSampler:
    """One rank's, for one test. meter: None where the device is not measured, as `facts` say.

    Every rank samples its own device, so that no rank has to know those of others.
    """

    def __init__(self, facts: MeterFacts, meter: Meter | None, interval_s: float) -> None:
        self.facts, self._meter, self._interval_s = facts, meter, interval_s
        self._samples: list[PowerSample] = []  # on this process's clock
        self._lock, self._over = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="power")

    def start(self) -> None:
        if self._meter:
            self._thread.start()

    def stop(self) -> None:
        """Take a last sample and end."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def take(self, clock: ConductorClock) -> list[PowerSample]:
        """Samples since the last call, on the conductor's clock; none before that clock is known."""
        with self._lock:
            if clock.of(0.0) is None:
                return []
            taken, self._samples = self._samples, []
        return [_moved(sample, clock.offset_s) for sample in taken]

    def _run(self) -> None:
        next_state = last = time.perf_counter()
        while True:
            with_state = time.perf_counter() >= next_state
            next_state += STATE_EVERY_S * with_state
            sample = self._sample(with_state)
            with self._lock:
                self._samples.append(sample)
            if self._over.is_set():
                return
            last = max(last + self._interval_s, time.perf_counter())
            self._over.wait(last - time.perf_counter())

    def _sample(self, with_state: bool) -> PowerSample:
        assert self._meter is not None
        began = time.perf_counter()
        try:
            values = self._meter.energy_and_power()
        except Exception as error:  # a device that is lost, a counter without permission: reported with the figures
            return PowerSample(began, error=f"{type(error).__name__}: {error}")
        at_s = (began + time.perf_counter()) / 2
        return PowerSample(at_s, **values, **(self._meter.state() if with_state else {}))


def power_sampler(settings: PowerSettings, rank: int, device: torch.device) -> PowerSampler:
    """Raises ConfigError where the device has to be measured and cannot be."""
    if settings.sample == "never":
        return PowerSampler(MeterFacts(rank, off=True), None, settings.interval_s)
    try:
        meter = find_meter(device, Path(settings.powercap))
    except MeterError as why:
        if settings.sample == "always":
            raise ConfigError(f"power.sample is 'always', but {device} cannot be measured: {why}") from None
        if not why.expected:  # outcome.json has the others
            _print_once(f"energy is not measured: {why}", rank)
        return PowerSampler(MeterFacts(rank, error=str(why), off=why.expected), None, settings.interval_s)
    node = os.environ.get("GROUP_RANK", "0")
    return PowerSampler(MeterFacts(rank, meter.source, f"{node}/{meter.device}", meter.limit_w), meter, settings.interval_s)


@cache
def _print_once(line: str, rank: int) -> None:
    if rank == 0:
        say(line)


def _moved(sample: PowerSample, offset_s: float) -> PowerSample:
    return msgspec.structs.replace(sample, at_s=sample.at_s + offset_s)
