"""outcome.json: how each test ended, by mode; and system.json: what it ran on. Types of their values, as far as they are read.

Files of older versions lack some names and have further ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Required, TypedDict

from msgspec import Meta

from configs.decode import read_document
from workloads.records import Count, Seconds

Rate = Annotated[float, Meta(gt=0, le=1e12)]


class Inspection(TypedDict, total=False):
    """What was seen of a rank's model and packages: pipelines/launcher/worker/inspection.py."""

    weights: dict[str, dict[str, Count]]
    attention: list[str]
    compiled: int
    packages: dict[str, str]


class RankOutcome(TypedDict, total=False):
    """What a rank reported; of a replica, its first one."""

    rank: Required[int]
    device: Required[str]
    batch_size: int
    warmup_sample_s: Seconds
    effective: Required[dict[str, str]]
    fallbacks: Required[list[str]]
    repeats: str
    rests: bool
    requested: dict[str, Any]
    found: Inspection | None
    effective_after: dict[str, str] | None
    found_after: Inspection | None
    counted: dict[str, Count]
    backlog_s: Seconds | None
    memory: dict[str, Count]
    clock_offset_s: Seconds | None
    clock_error_s: Seconds | None
    error: str | None


class Meter(TypedDict):
    """How a rank's device was measured: power_log.py, MeterFacts."""

    rank: int
    source: str
    device: str
    limit_w: Seconds | None
    error: str | None
    off: bool


class Outcome(TypedDict, total=False):
    """One test. aborted: why it was given up. replays: Answer of pipelines/launcher/messages.py. earlier: the parts before a resumption."""

    aborted: str | None
    num_issued: Count
    num_done: Count
    num_failed: Count
    target_qps: Rate | None
    loadgen_returned: bool
    ranks: list[RankOutcome]
    replays: list[dict[str, Any]]
    num_ranks: Annotated[int, Meta(ge=1)]
    power: list[Meter]
    earlier: list[Outcome]


class Accelerator(TypedDict, total=False):
    name: str
    memory_bytes: Count


class SystemFacts(TypedDict, total=False):
    os: str
    python: str
    processor: str
    num_cpus: Count | None
    memory_bytes: Count
    accelerators: list[Accelerator]
    rocm: str | None
    cuda: str | None
    packages: dict[str, str | None]


def read_outcome(folder: Path) -> dict[str, Outcome]:
    """By mode; empty where no test ended. Raises ConfigError where the file is damaged."""
    file = folder / "outcome.json"
    kind: Any = dict[Literal["performance", "accuracy"], Outcome]
    found: dict[str, Outcome] = read_document(file, kind) if file.exists() else {}
    return found


def read_system(folder: Path) -> SystemFacts:
    """Raises ConfigError where the file is missing or damaged."""
    return read_document(folder / "system.json", SystemFacts)
