"""An examination: the facts of every rank and the figures of every link, as doctor.json holds them."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from configs.decode import read_json
from configs.errors import ConfigError
from workloads.run_folder.files import write_json

T = TypeVar("T")

SCHEMA = "triptych-doctor/1"


@dataclass(frozen=True, slots=True)
class Link:
    """The link between two GPUs of one host. kind: XGMI, PCIE, NV18, SYS ... as the vendor's program names it."""

    gpus: tuple[int, int]
    kind: str
    num_hops: int | None = None


@dataclass(frozen=True, slots=True)
class Topology:
    """The links of a host. program: the one that listed them; error: why there are none."""

    program: str
    links: list[Link] = field(default_factory=list)
    error: str | None = None


@dataclass(frozen=True, slots=True)
class RankFacts:
    """One rank and its device. None where a fact is unknown.

    device: torch's name for it, such as cuda:3. num_visible_gpus: those that this process may use; num_host_gpus: those that
    the kernel lists. tflops: of a matrix product in dtype. error: why there is no figure. topology: first rank of a host only.
    """

    rank: int
    local_rank: int
    host: str
    device: str
    device_name: str
    arch: str | None = None
    memory_bytes: int | None = None
    pci_bus: str | None = None
    numa_node: int | None = None
    num_visible_gpus: int = 0
    num_host_gpus: int | None = None
    numa_balancing: bool | None = None
    versions: dict[str, str | None] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    dtype: str = "bfloat16"
    tflops: float | None = None
    error: str | None = None
    topology: Topology | None = None

    @property
    def on_gpu(self) -> bool:
        return self.device.partition(":")[0] != "cpu"


@dataclass(frozen=True, slots=True)
class Collective:
    """An all-reduce or all-gather among `ranks`, as its slowest rank measured it. scope: all, intra-node or inter-node.

    latency_s: of the smallest message. bus_bandwidth: bytes/s, comparable between numbers of ranks.
    correct: whether every rank got the right values.
    """

    operation: str
    scope: str
    ranks: list[int]
    latency_s: float
    bus_bandwidth: float
    correct: bool = True


@dataclass(frozen=True, slots=True)
class Pair:
    """Messages between two ranks, one at a time. scope: intra-node or inter-node. latency_s: one way; bandwidth: bytes/s."""

    scope: str
    ranks: tuple[int, int]
    latency_s: float
    bandwidth: float
    correct: bool = True


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong, and how to mend it. level: error (the examination fails) or warning."""

    level: str
    text: str
    ranks: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Examination:
    """All facts and figures. time: when, in UTC. silent: ranks that did not answer, and the step that each was last in."""

    time: str
    backend: str
    num_ranks: int
    ranks: list[RankFacts]
    collectives: list[Collective] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    silent: dict[int, str] = field(default_factory=dict)

    @property
    def slow_level(self) -> str:
        """The level of a slow device or link. Ranks on CPUs share cores with other work: there it is no error."""
        return "error" if any(r.on_gpu for r in self.ranks) else "warning"

    def hosts(self) -> dict[str, list[RankFacts]]:
        """The ranks of each host, hosts in the order of their first rank."""
        by_host: dict[str, list[RankFacts]] = {}
        for facts in self.ranks:
            by_host.setdefault(facts.host, []).append(facts)
        return by_host


def write_examination(path: Path, examination: Examination, findings: Sequence[Finding]) -> None:
    """doctor.json. Raises ConfigError where it cannot be written."""
    try:
        write_json(path, as_json(examination, findings))
    except OSError as error:
        raise ConfigError(_unwritable(path, error.strerror)) from None


def prepare(path: Path) -> None:
    """Create the folder of the file. Raises ConfigError, before anything is measured, where the file could not be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(_unwritable(path, error.strerror)) from None
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(_unwritable(path, "no permission"))


def as_json(examination: Examination, findings: Sequence[Finding]) -> dict[str, Any]:
    content: dict[str, Any] = msgspec.to_builtins(examination, str_keys=True)
    return {"schema": SCHEMA, **content, "findings": msgspec.to_builtins(findings)}


def newest_fitting(folders: Iterable[Path]) -> Examination | None:
    """The newest doctor*.json in the folders that fits this launch: same first host, same number of ranks, on it and in all.

    Called on rank 0, which does not know the names of the other hosts: they are not compared.
    """
    num_ranks = int(os.environ.get("WORLD_SIZE", "1"))
    on_host = int(os.environ.get("LOCAL_WORLD_SIZE", str(num_ranks)))
    fitting = []
    for file in {path.resolve() for folder in folders for path in folder.glob("doctor*.json")}:
        try:
            read = read_json(file, Examination)
        except ConfigError:
            continue
        host = socket.gethostname()
        if read.num_ranks == len(read.ranks) == num_ranks and read.ranks[0].host == host and len(read.hosts()[host]) == on_host:
            fitting.append(read)
    return max(fitting, key=lambda e: e.time, default=None)


def without_names(examination: Examination) -> Examination:
    """The examination with hosts numbered and paths left out, for files that others get."""
    numbers = {host: f"host {i}" for i, host in enumerate(examination.hosts())}
    ranks = [
        replace(r, host=numbers[r.host], environment={k: "(a path)" if "/" in v else v for k, v in r.environment.items()})
        for r in examination.ranks
    ]
    return replace(examination, ranks=ranks)


def most_common(values: Iterable[Any]) -> Any:
    """The most common value; the first of equally common ones; None where there is no value."""
    return next((value for value, _ in Counter(values).most_common(1)), None)


def grouped(items: Iterable[T], key: Callable[[T], object]) -> list[list[T]]:
    """Items in groups of the same key."""
    groups: dict[object, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())


def _unwritable(path: Path, reason: str | None) -> str:
    return f"{str(path)!r} cannot be written ({reason}). Give --output a writable file."
