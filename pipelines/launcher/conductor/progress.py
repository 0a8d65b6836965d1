"""How far a run is: done, rate, time left, each rank's share. A live display, or lines where the output is not a terminal."""

from __future__ import annotations

import math
import time
from types import TracebackType
from typing import TYPE_CHECKING

from configs.output import open_console, printable, say

if TYPE_CHECKING:
    from rich.progress import Progress

REFRESH_S = 0.25
LINE_S, LONGEST_S = 10.0, 600.0  # between lines: a third of the time since the first query, within these bounds
MAX_NAMED_RANKS = 8  # with more, the least and the most answered by one rank are shown


class RunProgress:
    """Used by the conductor, which counts queries and answers."""

    def __init__(self, noun: str, mode: str, num_ranks: int, shown: bool) -> None:
        self._noun, self._mode, self._num_ranks = noun, mode, num_ranks
        self._progress: Progress | None = None
        self._done = self._failed = self._total = 0
        self._by_rank: dict[int, int] = {}
        self._began = self._shown = 0.0
        self._wanted, self._next_line = shown, math.inf

    def __enter__(self) -> RunProgress:
        if self._wanted:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

            columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            note = TextColumn("{task.fields[note]}")
            self._progress = Progress(*columns, note, console=open_console(), transient=True)
            self._progress.start()
            self._task = self._progress.add_task("loading", total=self._num_ranks, note="ranks ready")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._progress:
            self._progress.stop()

    def ready(self, count: int) -> None:
        if self._progress:
            self._progress.update(self._task, completed=count)
        elif count == self._num_ranks:
            say(f"{count} rank{'s' * (count > 1)} ready; the {self._mode} test begins")

    def total(self, count: int) -> None:
        if count and not self._began:
            self._began = time.monotonic()
            self._next_line = self._began + LINE_S
        if count != self._total:
            self._total = count
            self._show()

    def answered(self, rank: int, count: int, num_failed: int) -> None:
        """Count queries that the rank answered, failed ones included."""
        self._done += count
        self._failed += num_failed
        self._by_rank[rank] = self._by_rank.get(rank, 0) + count
        if time.monotonic() - self._shown > REFRESH_S or self._done == self._total:
            self._show()

    def _show(self) -> None:
        self._shown = time.monotonic()
        if not self._progress and self._shown < self._next_line:
            return
        rate = self._done / max(self._shown - self._began, 1e-9)
        parts = [f"{rate:.2f} {self._noun}/s"]
        if self._done:
            parts.append(f"{(self._total - self._done) / rate:.0f} s left")
        if len(self._by_rank) > MAX_NAMED_RANKS:
            parts.append(f"{min(self._by_rank.values())} to {max(self._by_rank.values())} a rank")
        elif len(self._by_rank) > 1:
            parts.append(" ".join(f"rank {r}: {n}" for r, n in sorted(self._by_rank.items())))
        if self._failed:
            parts.append(f"{self._failed} failed")
        text = ", ".join(parts)
        if not self._progress:
            self._next_line = self._shown + min(LONGEST_S, max(LINE_S, (self._shown - self._began) / 3))
            say(f"{self._mode}: {self._done} of {self._total}, {text}")
            return
        text = printable(text)  # the workload's noun may be a plugin's
        self._progress.update(self._task, description=self._mode, completed=self._done, total=self._total, note=text)
