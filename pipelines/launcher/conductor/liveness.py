"""Detects ranks that are dead, unresponsive or hung.

dead           nothing listens on its heartbeat's connection any more: noticed within two seconds
unresponsive   connected, but without a heartbeat for `heartbeat_timeout_s`: stopped, or its machine or network is gone
hung           its heart beats, but it has had queries for longer than `answer_timeout_s` and answered none
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

CHECK_EVERY_S = 1.0
MIN_PATIENCE_S, PATIENCE = 120.0, 10.0  # a rank is hung after so long without an answer, or so many times the longest batch


@dataclass
class RankState:
    """last_message, last_answer: on time.monotonic's clock."""

    host: str
    last_message: float
    last_answer: float = 0.0


class Liveness:
    """Bookkeeping about ranks. beat(rank): send it a heartbeat; False where its process is gone."""

    def __init__(self, beat: Callable[[int], bool], heartbeat_timeout_s: float, answer_timeout_s: float | None) -> None:
        self._beat, self._heartbeat_timeout_s, self._answer_timeout_s = beat, heartbeat_timeout_s, answer_timeout_s
        self._ranks: dict[int, RankState] = {}
        self._left: set[int] = set()
        self._missing: set[int] = set()  # dead at the last check
        self._longest_s = 0.0
        self._checked = time.monotonic()

    @property
    def ranks(self) -> list[int]:
        """All that ever connected."""
        return sorted(self._ranks)

    def name(self, rank: int) -> str:
        return f"rank {rank} on {self._ranks[rank].host}" if rank in self._ranks else f"rank {rank}"

    def note_connection(self, rank: int, host: str) -> None:
        self._ranks[rank] = RankState(host, time.monotonic())

    def note_message(self, rank: int) -> None:
        if rank in self._ranks:
            self._ranks[rank].last_message = time.monotonic()

    def note_answer(self, rank: int, batch_s: float = 0.0) -> None:
        """batch_s: how long it took."""
        self._longest_s = max(self._longest_s, batch_s)
        if rank in self._ranks:
            self._ranks[rank].last_answer = time.monotonic()

    def note_leave(self, rank: int) -> None:
        """The rank said goodbye; it is not checked any more."""
        self._left.add(rank)

    @property
    def patience_s(self) -> float:
        """How long a rank may have queries and answer none."""
        return self._answer_timeout_s or max(MIN_PATIENCE_S, PATIENCE * self._longest_s)

    def dead(self) -> list[int]:
        """Ranks whose process ended without goodbye."""
        return [rank for rank in self.ranks if rank not in self._left and not self._beat(rank)]

    def describe_death(self) -> str | None:
        """The message about ranks that are dead; None where there are none."""
        return self._describe(self.dead())

    def check(self, busy: Callable[[], Mapping[int, tuple[str, float]]]) -> str | None:
        """Once a second: the message about a rank that is dead, unresponsive or hung; None where there is none.

        busy: what each rank that has queries has had for longest, and for how many seconds.
        """
        now = time.monotonic()
        if now - self._checked < CHECK_EVERY_S:
            return None
        self._checked = now
        dead, missing = self.dead(), self._missing
        self._missing = set(dead)
        # Only at the second check: at the first one a rank's goodbye may still be on its way.
        if message := self._describe([rank for rank in dead if rank in missing]):
            return message
        for rank in self._ranks:
            if self.is_silent(rank):
                return (
                    f"{self.name(rank)} has been silent for {self._heartbeat_timeout_s:.0f} s (heartbeat_timeout_s): "
                    "its process is stopped, or its machine or network is gone"
                )
        for rank, (work, busy_s) in busy().items():
            if rank in self._ranks and min(busy_s, now - self._ranks[rank].last_answer) > self.patience_s:
                return f"{self.name(rank)} hangs: no answer for {self.patience_s:.0f} s (answer_timeout_s) while it works on {work}"
        return None

    def is_silent(self, rank: int) -> bool:
        """Whether a rank that has not left sent nothing for longer than it may."""
        state = self._ranks.get(rank)
        return state is not None and rank not in self._left and time.monotonic() - state.last_message > self._heartbeat_timeout_s

    def _describe(self, dead: Sequence[int]) -> str | None:
        if not dead:
            return None
        return (
            f"{self.name(dead[0])} died: its process was killed or crashed (the kernel kills one when memory runs out); "
            "its launcher names the exit code" + (f"; also dead: {', '.join(map(self.name, dead[1:]))}" if dead[1:] else "")
        )
