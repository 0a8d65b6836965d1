"""power.jsonl: power samples of the run's devices during a test, on the run's clock.

Ranks send samples every second, and they are written as they arrive. Samples from before the first query are held until its time is known.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec

from configs.decode import reading
from workloads.records import Count, Seconds

Amount = Annotated[float, msgspec.Meta(ge=-1e15, le=1e15)]
HELD = 20  # samples of a rank from before the first query; the counter's last value is needed
FILE = "power.jsonl"


class PowerSample(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One sample of a rank's device. at_s: seconds since the first query was issued; in messages, on the conductor's clock.

    energy_j: the device's counter, with an arbitrary start. throttled: reasons for a reduced clock, sampled once a second like clocks,
    temperature and memory. error: why there is no reading.
    """

    at_s: Seconds
    energy_j: Amount | None = None
    power_w: Amount | None = None
    clock_mhz: Amount | None = None
    memory_clock_mhz: Amount | None = None
    temperature_c: Amount | None = None
    memory_bytes: Count | None = None
    throttled: list[str] | None = None
    error: str | None = None


class PowerLine(msgspec.Struct, frozen=True):
    """A line of power.jsonl."""

    mode: str
    rank: int
    sample: PowerSample


class MeterFacts(msgspec.Struct, frozen=True):
    """How a rank's device is measured. source: amdsmi, nvml or rapl. device: the same name for ranks that share a counter.

    limit_w: the device's power limit. error: why it is not measured. off: it was not expected to be measured.
    """

    rank: int
    source: str = ""
    device: str = ""
    limit_w: float | None = None
    error: str | None = None
    off: bool = False


class PowerLog:
    """Writes the samples of one test, in the conductor. The file exists once there is a sample."""

    def __init__(self, folder: Path, mode: str) -> None:
        self._path, self._mode = folder / FILE, mode
        self._meters: dict[int, MeterFacts] = {}
        self._held: dict[int, deque[PowerSample]] = {}

    def meter(self, facts: MeterFacts) -> None:
        self._meters[facts.rank] = facts

    def take(self, rank: int, samples: Sequence[PowerSample], began: float | None) -> None:
        """Write the samples. began: when the first query was issued, on the samples' clock. Raises OSError."""
        if began is None:
            self._held.setdefault(rank, deque(maxlen=HELD)).extend(samples)
            return
        samples = [*self._held.pop(rank, ()), *samples]
        lines = [PowerLine(self._mode, rank, msgspec.structs.replace(s, at_s=round(s.at_s - began, 6))) for s in samples]
        with self._path.open("ab") as file:
            file.write(msgspec.json.Encoder().encode_lines(lines))

    def outcome(self) -> list[dict[str, Any]]:
        return [msgspec.to_builtins(self._meters[rank]) for rank in sorted(self._meters)]


def read_power(folder: Path, mode: str) -> dict[int, list[PowerSample]]:
    """That test's samples by rank, in order of time, without an incomplete last line.

    Raises ValueError if the file is missing or damaged.
    """
    with reading(FILE, failure=ValueError):
        content = (folder / FILE).read_bytes()
        lines = msgspec.json.Decoder(PowerLine).decode_lines(content[: content.rfind(b"\n") + 1])
    by_rank: dict[int, list[PowerSample]] = {}
    for line in lines:
        if line.mode == mode:
            by_rank.setdefault(line.rank, []).append(line.sample)
    return {rank: sorted(samples, key=lambda s: s.at_s) for rank, samples in by_rank.items()}
