"""Queries of one test, from LoadGen's issue to their Record.

Returns what is to be sent and raises what is to abort the test; the conductor does both. LoadGen's thread notes what it issues
(`_on_issue`); everything else runs on the conductor's main thread.
Which replica gets which query is decided in pipelines/distributed/dispatch.py.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import socket
import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from configs.errors import RunError
from configs.run_config import RunConfig
from pipelines.distributed.dispatch import PullDispatch, PushDispatch, ReplicaState
from pipelines.launcher import messages as wire
from pipelines.launcher.conductor.job import JobSpec, Rest
from pipelines.launcher.conductor.progress import RunProgress
from workloads.loadgen.load_test import LoadTest
from workloads.records import AFTER_ANSWER, Query, Record, query_seed
from workloads.run_folder.record_log import RecordLog

_LINES = msgspec.json.Encoder()


class PendingQuery(msgspec.Struct, gc=False):
    """A query that LoadGen issued and that has no answer yet. Times are on the conductor's clock."""

    query: Query
    sample_index: int
    loadgen_id: int
    issued: float
    group: int
    scheduled_s: float | None  # as LoadTest.scheduled_s
    expected: float = 0.0  # tokens it was expected to cost
    rank: int = -1
    started: float | None = None
    first_token: float | None = None
    batch_size: int = 1


class Queries:
    """woken: a file descriptor that becomes readable when LoadGen issues queries while `asleep` is set."""

    def __init__(self, job: JobSpec, config: RunConfig, progress: RunProgress) -> None:
        self._job, self._config, self._progress = job, config, progress
        self.rest = job.rest or Rest(list(range(job.num_samples)), 0, 0, 0.0, job.mode)
        self.test: LoadTest | None = None
        self.num_done = self.num_failed = 0
        self._any_media = False
        self.woken, self._wake = os.pipe()
        self.asleep = False
        self.next_id, self._next_group = self.rest.first_id, 0  # of queries that were taken over
        self._log = RecordLog(Path(job.folder), job.mode, self.rest.first_id)
        self._issued: deque[tuple[list[int], list[int], float]] = deque()  # calls of LoadGen, filled on its thread
        self._dispatch: Any = PushDispatch(config.dispatch.policy) if config.is_server else PullDispatch()
        self._out: dict[int, PendingQuery] = {}
        self.seed = functools.cache(functools.partial(query_seed, config.seed))
        self._began: float | None = None

    @property
    def num_issued(self) -> int:
        return self.next_id - self.rest.first_id

    @property
    def zero_s(self) -> float | None:
        """The conductor's time at which the run's clock reads 0; None before the first query."""
        return None if self._began is None else self._began - self.rest.began_s

    @property
    def any_issued(self) -> bool:
        """Whether LoadGen issued queries that `take_issued` has not taken yet."""
        return bool(self._issued)

    @property
    def all_answered(self) -> bool:
        return self.test is not None and not self.test.running and not self._out and not self._dispatch.waiting

    def join(self, ready: wire.Ready) -> None:
        """A replica may be given queries from now on."""
        capacity = (self._config.dispatch.max_in_flight if ready.streams else None) or ready.batch_size
        self._dispatch.join(ReplicaState(ready.rank, capacity, 1 / max(ready.sample_s, 1e-9), ready.streams))

    def start(self, samples_per_s: float) -> None:
        """Start LoadGen. samples_per_s: of all replicas together, in their warm-ups."""
        self.test = LoadTest(
            self._config,
            self._job.mode,
            len(self.rest.samples),
            samples_per_s,
            self._job.streams,
            Path(self._job.folder) / self.rest.logs,
            self._on_issue,
            self._job.audit,
        )
        self.test.start()

    def _on_issue(self, loadgen_ids: list[int], indices: list[int]) -> None:
        """On LoadGen's thread, which is late for the next query for as long as this takes."""
        self._issued.append((loadgen_ids, indices, time.perf_counter()))
        if self.asleep:
            self.asleep = False
            os.write(self._wake, b"+")

    def take_issued(self) -> int:
        """Take over what LoadGen has issued; returns how many."""
        if not self._issued:
            return 0
        items: list[PendingQuery] = []
        for _ in range(len(self._issued)):
            items += self._pending(*self._issued.popleft())
        self._log.issued([pending.sample_index for pending in items])
        self._dispatch.add(items)
        self._progress.total(self.next_id)
        return len(items)

    def _pending(self, loadgen_ids: list[int], indices: list[int], issued: float) -> Iterator[PendingQuery]:
        """The queries of one call of LoadGen."""
        assert self.test is not None
        scheduled_s = self.test.scheduled_s(self.next_id + len(indices) - 1)
        if self._began is None or issued - (scheduled_s or 0.0) < self._began:  # the query that is least late tells when the test began
            self._began = issued - (scheduled_s or 0.0)
        for loadgen_id, index in zip(loadgen_ids, indices, strict=True):
            sample = self._job.rest.samples[index] if self._job.rest else index
            query = Query(self.next_id, sample, self.seed(sample))
            scheduled_s = self.test.scheduled_s(self.next_id)
            yield PendingQuery(query, sample, loadgen_id, issued, self._next_group, scheduled_s)
            self.next_id += 1
            self._next_group += scheduled_s is not None  # of a server's queries, LoadGen issues those together that are late
        self._next_group += scheduled_s is None

    def assign(self) -> Iterator[tuple[int, wire.Work]]:
        """What each rank is to be sent."""
        now, out = time.perf_counter(), self._out
        for rank, batch in self._dispatch.assign(now):
            batch_size = 1 if self._job.streams else len(batch)
            for pending in batch:
                pending.rank, pending.started, pending.batch_size = rank, now, batch_size
                out[pending.query.id] = pending
            yield rank, wire.Work([pending.query for pending in batch])

    def first_tokens(self, tokens: Sequence[wire.FirstToken]) -> None:
        """Stop the clock of the first tokens."""
        now, out = time.perf_counter(), self._out
        known = [(pending, token_id, at) for query_id, token_id, at in tokens if (pending := out.get(query_id)) is not None]
        for pending, _, at in known:
            pending.first_token = now if at is None else min(now, max(at, pending.started or now))
        assert self.test is not None
        self.test.first_tokens([(pending.loadgen_id, token_id) for pending, token_id, _ in known])

    def finish(self, done: wire.Done) -> float:
        """Close the answered queries; the seconds that the longest of them took. Raises RunError where Records cannot be written."""
        out = self._out
        known = [(pending, r) for r in done.results if (pending := out.pop(r.query_id, None)) is not None]
        now = time.perf_counter()
        self._dispatch.finished(done.rank, [(pending, r.num_input_tokens + r.num_units) for pending, r in known], now)
        self._close(done.rank, known)
        return now - min([pending.started or 0.0 for pending, _ in known], default=now)

    def fail_all(self, reason: str) -> None:
        """Close every open query as failed, so that LoadGen returns."""
        left = [*self._out.values(), *self._dispatch.waiting]
        self._out.clear()
        self._dispatch.waiting.clear()
        by_rank: dict[int, list[tuple[PendingQuery, wire.Result]]] = {}
        for pending in left:
            by_rank.setdefault(pending.rank, []).append((pending, wire.Result(pending.query.id, "failed", error=reason)))
        for rank, failed in by_rank.items():
            with contextlib.suppress(RunError):  # the test is being aborted already, for the first reason
                self._close(rank, failed)

    def busy(self) -> dict[int, tuple[str, float]]:
        """What each rank has had for longest, and for how many seconds."""
        now, oldest = time.perf_counter(), dict[int, PendingQuery]()
        for pending in self._out.values():
            oldest.setdefault(pending.rank, pending)
        return {rank: (f"query {p.query.id} (sample {p.sample_index})", now - (p.started or now)) for rank, p in oldest.items()}

    def fail_unwritten(self, causes: Mapping[str, str], gone: Collection[int]) -> None:
        """Count answers as failed whose files are not on disk: see RecordLog. Raises RunError where the Records cannot be written."""
        if not self._any_media:
            return
        try:
            num_failed = self._log.fail_unwritten(self._job.mode, causes, gone)
        except OSError as error:
            raise _unwritable(error) from None
        self.num_done -= num_failed
        self.num_failed += num_failed

    def draw(self, rng: random.Random) -> Iterator[Record]:
        """Records of this test in random order."""
        return self._log.draw(self._job.mode, rng)

    def close(self) -> None:
        self._log.close()

    def _close(self, rank: int, answered: Sequence[tuple[PendingQuery, wire.Result]]) -> None:
        """Stop the queries' clocks, report them to LoadGen, write their Records."""
        completed = time.perf_counter()
        if not answered:
            return
        assert self.test is not None
        self.test.first_tokens([(p.loadgen_id, -1) for p, _ in answered if p.first_token is None])  # of those that failed before it
        self.test.complete([(p.loadgen_id, r.tokens or r.digest, r.num_units) for p, r in answered])
        num_failed = len([r for _, r in answered if r.status == "failed"])
        self._any_media = self._any_media or any(r.media is not None for _, r in answered)
        self.num_done += len(answered) - num_failed
        self.num_failed += num_failed
        self._progress.answered(rank, len(answered), num_failed)
        try:
            self._log.write(_LINES.encode_lines(self._records(answered, rank, completed)))
        except OSError as error:
            raise _unwritable(error) from None

    def _records(self, answered: Sequence[tuple[PendingQuery, wire.Result]], rank: int, completed: float) -> list[Record]:
        began, mode = self.zero_s, self._job.mode
        assert began is not None
        return [
            Record(  # by position: names take five times as long, and made a tenth of the conductor's time for each query
                p.query.id,
                p.sample_index,
                p.query.seed,
                mode,
                r.status,
                rank,
                p.issued - began if p.scheduled_s is None else p.scheduled_s,
                _end(p, r, completed) - began,
                None if p.started is None else p.started - began,
                p.batch_size,
                p.group,
                r.stages,
                r.step_s,
                r.num_units,
                r.num_input_tokens,
                None if p.first_token is None else p.first_token - began,
                r.first_token_id,
                r.finish_reason,
                r.token_gap_s,
                r.digest,
                r.media,
                r.text,
                r.finite,
                r.error,
                None if r.worked is None else (round(r.worked[0] - began, 6), round(r.worked[1] - began, 6)),
                r.client_lag_s,
            )
            for p, r in answered
        ]


def _end(pending: PendingQuery, r: wire.Result, closed: float) -> float:
    """When the answer was complete: now, unless its pipeline noted how long that is ago."""
    if AFTER_ANSWER not in r.stages:
        return closed
    answered = min(closed, r.worked[1]) if r.worked else closed
    return max(answered - r.stages[AFTER_ANSWER], pending.first_token or pending.issued)


def _unwritable(error: OSError) -> RunError:
    return RunError(f"the conductor on {socket.gethostname()}: records.jsonl cannot be written: {error.strerror}")
