"""The watchdog: names the ranks that do not answer, and ends the examination: a stuck collective cannot be left in any other way."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from configs.output import say

POLL_S = 1.0
WAIT_S = 3.0  # an error on rank 0 may be caused by another rank, which reports its own within this time
LATER_S = 10.0  # other ranks wait this much longer than rank 0, so that rank 0 reports first


class Watchdog:
    """Every rank publishes the step it is in; a thread of rank 0 compares them once a step has taken longer than timeout_s.

    give_up: called on rank 0 with the ranks that are furthest behind, and the step each was seen in; must end the process.
    """

    def __init__(self, rank: int, num_ranks: int, timeout_s: float, give_up: Callable[[dict[int, str]], None]) -> None:
        self.rank, self.num_ranks, self.timeout_s = rank, num_ranks, timeout_s
        self._give_up = give_up
        self._count, self._step, self._since = 0, "start", time.monotonic()
        self._ended, self._reporting = threading.Event(), threading.Lock()
        self._store = _connect(timeout_s) if num_ranks > 1 else None  # one for each thread: a stuck call holds its own
        self._thread = threading.Thread(target=self._watch, daemon=True, name="watchdog")
        self._thread.start()

    def step(self, name: str) -> None:
        """This rank begins another step. All ranks take the same number of steps."""
        self._count, self._step, self._since = self._count + 1, name, time.monotonic()
        if self._store:
            self._store.set(_key(self.rank), f"{self._count} {name}")

    def failed(self, message: str) -> None:
        """This rank cannot go on. Gives rank 0 time to report it."""
        if self._store and self.rank:
            self._store.set("doctor/failed", f"{self.rank} {self._step}: {message}")
            time.sleep(LATER_S)
        elif not self.rank:
            if self._store:
                time.sleep(WAIT_S)
            behind = self._behind(self._store)
            self._report({0: f"{self._step}: {message}"} if 0 in behind else behind)

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        store = _connect(self.timeout_s) if self._store and self.rank == 0 else None
        while not self._ended.wait(POLL_S):
            late = time.monotonic() - self._since > self.timeout_s + (LATER_S if self.rank else 0)
            if self.rank == 0 and store and store.check(["doctor/failed"]):
                rank, _, message = store.get("doctor/failed").decode().partition(" ")
                self._report({int(rank): message})
            elif late and self.rank == 0:
                self._report(self._behind(store))
            elif late:
                say(f"rank {self.rank} gave up in step {self._step!r}: rank 0 does not answer")
                os._exit(1)

    def _report(self, silent: dict[int, str]) -> None:
        with self._reporting:  # two threads may report
            self._give_up(silent)

    def _behind(self, store: Any) -> dict[int, str]:
        seen = {0: (self._count, self._step)}
        for rank in range(1, self.num_ranks):
            count, _, step = (store.get(_key(rank)).decode() if store and store.check([_key(rank)]) else "0 start").partition(" ")
            seen[rank] = (int(count), step)
        last = min(count for count, _ in seen.values())
        return {rank: step for rank, (count, step) in seen.items() if count == last}


def _connect(timeout_s: float) -> Any:
    """A new connection to the store of the process group."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(host, port, is_master=False, timeout=timedelta(seconds=timeout_s), wait_for_workers=False)


def _key(rank: int) -> str:
    return f"doctor/step/{rank}"
