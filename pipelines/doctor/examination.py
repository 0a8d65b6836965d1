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

from configs.errors import ConfigError
from workloads.run_folder.files import write_json

T = TypeVar("T")

SCHEMA = "triptych-doctor/1"


@dataclass(frozen=True, slots=True)
class Link:
    """How two GPUs of one host are joined. kind: XGMI, PCIE, NV18, SYS ... as the vendor's program says it."""

    gpus: tuple[int, int]
    kind: str
    num_hops: int | None = None


@dataclass(frozen=True, slots=True)
class Topology:
    """program: what told of the links; error: why there are none."""

    program: str
    links: list[Link] = field(default_factory=list)
    error: str | None = None


@dataclass(frozen=True, slots=True)
class RankFacts:
    """One rank and its device. What cannot be known is None.

    device: torch's name for it, such as cuda:3. num_visible_gpus: those that this process may use; num_host_gpus: those that
    the kernel knows. tflops: of a matrix product in dtype. error: why there is no figure. topology: first rank of a host only.
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
    """An all-reduce or all-gather among `ranks`, by its slowest rank. scope: all, intra-node or inter-node.

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
    """What is not right, and how to mend it. level: error (the examination is not passed) or warning."""

    level: str
    text: str
    ranks: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Examination:
    """All that was found. time: when, in UTC. silent: ranks that did not answer, and in which step they were last seen."""

    time: str
    backend: str
    num_ranks: int
    ranks: list[RankFacts]
    collectives: list[Collective] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    silent: dict[int, str] = field(default_factory=dict)

    @property
    def slow_level(self) -> str:
        """The level of what is slow. Ranks on processors share cores with other work: there it is no error."""
        return "error" if any(r.on_gpu for r in self.ranks) else "warning"

    def hosts(self) -> dict[str, list[RankFacts]]:
        """The ranks of each host, hosts in the order of their first rank."""
        found: dict[str, list[RankFacts]] = {}
        for facts in self.ranks:
            found.setdefault(facts.host, []).append(facts)
        return found


def write_examination(path: Path, examination: Examination, findings: Sequence[Finding]) -> None:
    """doctor.json. Raises ConfigError where it cannot be written."""
    try:
        write_json(path, as_json(examination, findings))
    except OSError as error:
        raise ConfigError(_unwritable(path, error.strerror)) from None


def prepare(path: Path) -> None:
    """Make its folder. Raises ConfigError, before anything is measured, where the file could not be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(_unwritable(path, error.strerror)) from None
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(_unwritable(path, "no right to write"))


def as_json(examination: Examination, findings: Sequence[Finding]) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(examination, str_keys=True)
    return {"schema": SCHEMA, **found, "findings": msgspec.to_builtins(findings)}


def newest_fitting(folders: Iterable[Path]) -> Examination | None:
    """The newest doctor*.json in the folders that fits this launch: same first host, same number of ranks, on it and in all.

    Only rank 0 asks, so the names of the other hosts are not compared.
    """
    num_ranks = int(os.environ.get("WORLD_SIZE", "1"))
    on_host = int(os.environ.get("LOCAL_WORLD_SIZE", str(num_ranks)))
    fitting = []
    for file in {path.resolve() for folder in folders for path in folder.glob("doctor*.json")}:
        try:
            found = msgspec.json.decode(file.read_bytes(), type=Examination)
        except (OSError, msgspec.MsgspecError):
            continue
        host = socket.gethostname()
        if found.num_ranks == len(found.ranks) == num_ranks and found.ranks[0].host == host and len(found.hosts()[host]) == on_host:
            fitting.append(found)
    return max(fitting, key=lambda e: e.time, default=None)


def without_names(examination: Examination) -> Examination:
    """The same with hosts numbered and paths left out, for files that are passed on."""
    numbers = {host: f"host {i}" for i, host in enumerate(examination.hosts())}
    ranks = [
        replace(r, host=numbers[r.host], environment={k: "(a path)" if "/" in v else v for k, v in r.environment.items()})
        for r in examination.ranks
    ]
    return replace(examination, ranks=ranks)


def most_common(values: Iterable[Any]) -> Any:
    """The value most of them have; of equally common ones the first; None where there is none."""
    return next((value for value, _ in Counter(values).most_common(1)), None)


def grouped(items: Iterable[T], key: Callable[[T], object]) -> list[list[T]]:
    """Items of the same key together."""
    found: dict[object, list[T]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return list(found.values())


def _unwritable(path: Path, reason: str | None) -> str:
    return f"{str(path)!r} cannot be written ({reason}); give --output a file that can"
