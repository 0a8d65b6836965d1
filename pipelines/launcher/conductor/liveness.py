"""The conductor's watch over the ranks: who is there, whose process is gone, who is silent, who hangs.

gone     nothing listens on its heartbeat's connection any more: noticed within two seconds
silent   connected, but without a heartbeat for `heartbeat_timeout_s`: stopped, or its machine or network is gone
hangs    its heart beats, but it has had queries for long and answers none: longer than `answer_timeout_s`
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

LOOK_EVERY_S = 1.0
MIN_PATIENCE_S, PATIENCE = 120.0, 10.0  # a rank hangs after so long without an answer, or so many times the longest batch


@dataclass
class Watched:
    """A rank. seen, progress: when it last said and answered something."""

    host: str
    seen: float
    progress: float = 0.0


class Vigil:
    """Bookkeeping about ranks. beat(rank): let it know that the conductor lives; False where its process is gone."""

    def __init__(self, beat: Callable[[int], bool], heartbeat_timeout_s: float, answer_timeout_s: float | None) -> None:
        self._beat, self._heartbeat_timeout_s, self._answer_timeout_s = beat, heartbeat_timeout_s, answer_timeout_s
        self._ranks: dict[int, Watched] = {}
        self._left: set[int] = set()
        self._missed: set[int] = set()  # gone at the last look
        self._longest_s = 0.0
        self._looked = time.monotonic()

    @property
    def ranks(self) -> list[int]:
        """Those that were ever there."""
        return sorted(self._ranks)

    def name(self, rank: int) -> str:
        return f"rank {rank} on {self._ranks[rank].host}" if rank in self._ranks else f"rank {rank}"

    def hello(self, rank: int, host: str) -> None:
        self._ranks[rank] = Watched(host, time.monotonic())

    def seen(self, rank: int) -> None:
        if rank in self._ranks:
            self._ranks[rank].seen = time.monotonic()

    def left(self, rank: int) -> None:
        """It said goodbye; nobody expects it any more."""
        self._left.add(rank)

    def answered(self, rank: int, batch_s: float = 0.0) -> None:
        """batch_s: how long it took."""
        self._longest_s = max(self._longest_s, batch_s)
        if rank in self._ranks:
            self._ranks[rank].progress = time.monotonic()

    @property
    def patience_s(self) -> float:
        """How long a rank may have queries and answer none."""
        return self._answer_timeout_s or max(MIN_PATIENCE_S, PATIENCE * self._longest_s)

    def gone(self) -> list[int]:
        """Ranks whose process ended without goodbye."""
        return [rank for rank in self.ranks if rank not in self._left and not self._beat(rank)]

    def death(self) -> str | None:
        """Which rank's process ended without goodbye, in words; None where all are there."""
        return self._death_of(self.gone())

    def look(self, busy: Callable[[], Mapping[int, tuple[str, float]]]) -> str | None:
        """Once a second: what is wrong, in words. busy: what each rank that has queries has had for longest, and for how long."""
        now = time.monotonic()
        if now - self._looked < LOOK_EVERY_S:
            return None
        self._looked = now
        gone, missed = self.gone(), self._missed
        self._missed = set(gone)
        if death := self._death_of([rank for rank in gone if rank in missed]):  # at the first look its goodbye may be on its way
            return death
        for rank, watched in self._ranks.items():
            if rank not in self._left and now - watched.seen > self._heartbeat_timeout_s:
                return (
                    f"{self.name(rank)} has been silent for {self._heartbeat_timeout_s:.0f} s (heartbeat_timeout_s): "
                    "its process is stopped, or its machine or network is gone"
                )
        for rank, (work, had_s) in busy().items():
            if rank in self._ranks and min(had_s, now - self._ranks[rank].progress) > self.patience_s:
                return f"{self.name(rank)} hangs: no answer for {self.patience_s:.0f} s (answer_timeout_s) while it works on {work}"
        return None

    def _death_of(self, ranks: Sequence[int]) -> str | None:
        if not ranks:
            return None
        return (
            f"{self.name(ranks[0])} died: its process was killed or crashed (the kernel kills one when memory runs out); "
            "its launcher names the exit code" + (f"; also gone: {', '.join(map(self.name, ranks[1:]))}" if ranks[1:] else "")
        )
