"""The parts of a plan: layouts over devices, rooflines of pieces of work, and candidates with their memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class Layout(NamedTuple):
    """How many devices hold one replica, and how it is split. offload: only the running part is on the device."""

    tensor: int = 1
    context: int = 1
    cfg: int = 1
    offload: bool = False

    @property
    def size(self) -> int:
        return self.tensor * self.context * self.cfg

    def __str__(self) -> str:
        parts = [f"{name} {getattr(self, name)}" for name in ("tensor", "cfg", "context") if getattr(self, name) > 1]
        return ", ".join([*(parts or ["one device"]), *(["offload"] if self.offload else [])])


class Roof(NamedTuple):
    """The least seconds of a piece of work by each limit alone; with perfect overlap it takes the longest of them."""

    compute_s: float
    memory_s: float
    link_s: float = 0.0
    host_s: float = 0.0

    @property
    def seconds(self) -> float:
        return max(self)

    @property
    def bound(self) -> str:
        return ("compute", "memory", "links", "host link")[self.index(self.seconds)]

    def plain(self) -> dict[str, float | str]:
        limits = {name: value for name, value in self._asdict().items() if value or name in ("compute_s", "memory_s")}
        return {"seconds": self.seconds, "bound": self.bound, **limits}


class Ceiling(NamedTuple):
    """The throughput over all devices that cannot be exceeded, and the limit that sets it."""

    value: float
    unit: str
    bound: str


@dataclass(frozen=True)
class Candidate:
    """One layout in one precision, at one batch.

    memory: bytes on the fullest device, by content. max_batch: the largest that fits a replica; None where even one does not.
    stages: roofs by name. impossible: why the model cannot be split like this.
    """

    precision: str
    layout: Layout
    replicas: int
    batch: int
    usable_bytes: int
    memory: Mapping[str, int] = field(default_factory=dict)
    max_batch: int | None = None
    stages: Mapping[str, Roof] = field(default_factory=dict)
    ceiling: Ceiling | None = None
    impossible: str | None = None

    @property
    def total_bytes(self) -> int:
        return sum(self.memory.values())

    @property
    def over_bytes(self) -> int:
        return max(0, self.total_bytes - self.usable_bytes)

    @property
    def fits(self) -> bool:
        return self.impossible is None and not self.over_bytes

    def __str__(self) -> str:
        return f"{self.precision} on {self.layout}"
