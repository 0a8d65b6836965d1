"""The conductor: LoadGen, the query router and the clock, in a process of their own without torch.

Rank 0 starts it, writes one JobSpec to its standard input, and reads two JSON lines from its standard output: the
address that workers connect to, and the outcome. Closing its standard input aborts the test: whatever is outstanding
becomes a failed Record, LoadGen is released, and what was finished is on disk.

Dispatch is by pull: a worker says how many queries it has room for, and gets the oldest ones waiting. In that way
uneven or busy devices balance themselves in every scenario.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any, TextIO

import msgspec
import zmq

from configs.run_config import RunConfig
from pipelines import wire
from pipelines.progress import RunProgress
from workloads.loadgen import LoadTest
from workloads.records import Query, Record, query_seed

POLL_MS = 100
RELEASE_S = 5.0  # how long an aborted LoadGen may take to return
GOODBYE_S = 120.0  # how long workers may take to write their media


class JobSpec(msgspec.Struct):
    """What rank 0 tells the conductor. `config` is RunConfig.model_dump()."""

    config: dict[str, Any]
    mode: str
    num_samples: int
    world_size: int
    folder: str
    noun: str
    show_progress: bool
    streams: bool = False  # tokens come one by one


class Asked(msgspec.Struct):
    """A query that LoadGen issued and that is not answered yet."""

    query: Query
    loadgen_id: int
    issued: float
    group: int
    rank: int = -1
    started: float | None = None
    first_token: float | None = None
    batch_size: int = 1


class Conductor:
    """One test, from the first worker's Ready to the last one's Bye."""

    def __init__(self, job: JobSpec, router: zmq.Socket[bytes], parent: TextIO) -> None:
        self.job, self._router, self._parent = job, router, parent
        self.config = RunConfig.model_validate(job.config)
        self.folder = Path(job.folder)
        self._records = (self.folder / "records.jsonl").open("ab")
        self._woken, self._wake = os.pipe()
        self._issued: deque[Asked] = deque()  # filled on LoadGen's thread
        self._waiting: deque[Asked] = deque()
        self._out: dict[int, Asked] = {}
        self._room: deque[list[int]] = deque()  # [rank, count], in the order in which they asked
        self._next_id = self._next_group = 0
        self._began: float | None = None
        self._test: LoadTest | None = None
        self.ready: dict[int, wire.Ready] = {}
        self.byes: dict[int, wire.Bye] = {}
        self._last_seen: dict[int, float] = {}
        self.aborted: str | None = None
        self.num_done = self.num_failed = 0
        self.progress = RunProgress(job.noun, job.mode, job.world_size, job.show_progress)

    def run(self) -> dict[str, Any]:
        """Carry the test through; the outcome as it goes into outcome.json."""
        poller = zmq.Poller()
        for source in (self._router, self._woken, self._parent.fileno()):
            poller.register(source, zmq.POLLIN)
        with self.progress:
            while not self._finished():
                events = dict(poller.poll(POLL_MS))
                if self._parent.fileno() in events and not self._parent.read():
                    poller.unregister(self._parent.fileno())
                    self.abort("interrupted")
                if self._woken in events:
                    os.read(self._woken, 4096)
                self._receive()
                self._take_issued()
                self._dispatch()
                self._look_for_the_dead()
            self._say_stop()
            self._await_byes(poller)
        self._records.close()
        return self._outcome()

    def abort(self, reason: str) -> None:
        """Fail whatever is outstanding and let LoadGen go; the first reason is kept."""
        if self.aborted is None:
            self.aborted = reason
            self._take_issued()
            self._release()

    def _finished(self) -> bool:
        if self.aborted:
            return self._test is None or self._test.join(0) or time.monotonic() > self._give_up_at
        return self._test is not None and not self._test.running and not self._out and not self._waiting

    def _release(self) -> None:
        self._give_up_at = time.monotonic() + RELEASE_S
        left = [*self._out.values(), *self._waiting]
        self._out.clear()
        self._waiting.clear()
        reason = self.aborted or ""
        self._close_queries([(a, wire.Result(a.query.id, "failed", error=reason), a.rank) for a in left])

    def _receive(self) -> None:
        while self._router.poll(0):
            _, payload = self._router.recv_multipart()
            message = wire.decode_from_worker(payload)
            self._last_seen[message.rank] = time.monotonic()
            match message:
                case wire.Ready():
                    self.ready[message.rank] = message
                    self.progress.ready(len(self.ready))
                    if len(self.ready) == self.job.world_size and not self.aborted:
                        self._start_test()
                case wire.Want():
                    self._room.append([message.rank, message.count])
                case wire.First():
                    self._take_first(message)
                case wire.Done():
                    self._take_done(message)
                case wire.Failed():
                    self.abort(f"rank {message.rank}: {message.error}")
                case wire.Bye():
                    self.byes[message.rank] = message

    def _start_test(self) -> None:
        samples_per_s = sum(1 / max(r.sample_s, 1e-9) for r in self.ready.values())
        self._test = LoadTest(
            self.config, self.job.mode, self.job.num_samples, samples_per_s, self.job.streams, self.folder / self.job.mode, self._on_issue
        )
        self._test.start()

    def _on_issue(self, issued: list[tuple[int, int]]) -> None:
        """On LoadGen's thread."""
        now = time.perf_counter()
        assert self._test is not None
        scheduled_s = self._test.scheduled_s(self._next_id) or 0.0
        self._began = min(self._began or now, now - scheduled_s)  # the best-kept appointment tells when the test began
        for loadgen_id, index in issued:
            query = Query(self._next_id, index, query_seed(self.config.seed, index))
            self._issued.append(Asked(query, loadgen_id, now, self._next_group))
            self._next_id += 1
        self._next_group += 1
        os.write(self._wake, b"+")

    def _take_issued(self) -> None:
        while self._issued:
            self._waiting.append(self._issued.popleft())
        self.progress.total(self._next_id)
        if self.aborted and self._waiting:
            self._release()

    def _dispatch(self) -> None:
        while self._waiting and self._room:
            rank, count = self._room.popleft()
            batch = [self._waiting.popleft() for _ in range(min(count, len(self._waiting)))]
            now = time.perf_counter()
            for asked in batch:
                asked.rank, asked.started, asked.batch_size = rank, now, 1 if self.job.streams else len(batch)
                self._out[asked.query.id] = asked
            if self.job.streams and len(batch) < count:  # queries may join those that run; a batch is closed once begun
                self._room.append([rank, count - len(batch)])
            self._send(rank, wire.Work([a.query for a in batch]))

    def _take_first(self, first: wire.First) -> None:
        """Stop the clock of the first tokens."""
        now = time.perf_counter()
        known = [(self._out[query_id], token_id) for query_id, token_id in first.tokens if query_id in self._out]
        for asked, _ in known:
            asked.first_token = now
        assert self._test is not None
        self._test.first_tokens([(asked.loadgen_id, token_id) for asked, token_id in known])

    def _take_done(self, done: wire.Done) -> None:
        known = [(self._out.pop(r.query_id), r, done.rank) for r in done.results if r.query_id in self._out]
        self._close_queries(known)

    def _close_queries(self, answered: list[tuple[Asked, wire.Result, int]]) -> None:
        """Stop the queries' clocks, tell LoadGen, keep the Records."""
        completed = time.perf_counter()
        if not answered:
            return
        assert self._test is not None
        self._test.complete([(a.loadgen_id, bytes.fromhex(r.digest), r.num_units, a.first_token is not None) for a, r, _ in answered])
        lines = [msgspec.json.encode(self._record(a, r, rank, completed)) + b"\n" for a, r, rank in answered]
        for _, result, rank in answered:
            self.num_done += result.status == "done"
            self.num_failed += result.status == "failed"
            self.progress.answered(rank, result.status == "done")
        try:
            self._records.write(b"".join(lines))
            self._records.flush()
        except OSError as error:
            self.abort(f"records.jsonl cannot be written: {error.strerror}; free some space and run again")

    def _record(self, asked: Asked, result: wire.Result, rank: int, completed: float) -> Record:
        assert self._began is not None
        assert self._test is not None
        began, scheduled_s = self._began, self._test.scheduled_s(asked.query.id)
        fields = msgspec.structs.asdict(result)
        del fields["query_id"]
        return Record(
            query_id=asked.query.id,
            sample_index=asked.query.sample_index,
            seed=asked.query.seed,
            mode=self.job.mode,
            rank=rank,
            issued_s=asked.issued - began if scheduled_s is None else scheduled_s,
            completed_s=completed - began,
            started_s=None if asked.started is None else asked.started - began,
            first_token_s=None if asked.first_token is None else asked.first_token - began,
            batch_size=asked.batch_size,
            group=asked.group,
            **fields,
        )

    def _look_for_the_dead(self) -> None:
        silent = time.monotonic() - self.config.heartbeat_timeout_s
        for rank, seen in self._last_seen.items():
            if seen < silent and rank not in self.byes and not self.aborted:
                self.abort(f"rank {rank} has been silent for {self.config.heartbeat_timeout_s:.0f} s; it died or its machine hangs")

    def _say_stop(self) -> None:
        for rank in self._last_seen:
            self._send(rank, wire.Stop("aborted" if self.aborted else "finished"))

    def _await_byes(self, poller: zmq.Poller) -> None:
        give_up = time.monotonic() + (RELEASE_S if self.aborted else GOODBYE_S)
        while set(self.byes) < set(self.ready) and time.monotonic() < give_up:
            events = dict(poller.poll(POLL_MS))
            if not self.aborted and self._parent.fileno() in events and not self._parent.read():
                self.aborted = "interrupted"
                break
            self._receive()
            self._look_for_the_dead()
        missing = sorted(set(self.ready) - set(self.byes))
        if missing and not self.aborted:
            self.aborted = f"ranks {missing} did not finish writing their answers within {GOODBYE_S:.0f} s"

    def _send(self, rank: int, message: wire.FromConductor) -> None:
        self._router.send_multipart([f"worker-{rank}".encode(), wire.encode(message)])

    def _outcome(self) -> dict[str, Any]:
        ranks = [
            {
                "rank": r.rank,
                "device": r.device,
                "batch_size": r.batch_size,
                "warmup_sample_s": r.sample_s,
                "effective": r.effective,
                "fallbacks": r.fallbacks,
                "memory": self.byes[r.rank].memory if r.rank in self.byes else {},
                "error": self.byes[r.rank].error if r.rank in self.byes else "left without a word",
            }
            for r in sorted(self.ready.values(), key=lambda r: r.rank)
        ]
        return {
            "aborted": self.aborted or (self._test.error if self._test else None),
            "num_issued": self._next_id,
            "num_done": self.num_done,
            "num_failed": self.num_failed,
            "target_qps": self._test.target_qps if self._test else None,
            "loadgen_returned": bool(self._test and not self._test.running),
            "ranks": ranks,
        }


def main() -> None:
    """Read a JobSpec, run the test, report. Exits at once even where an aborted LoadGen still sleeps."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which closes our input
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    job = msgspec.json.decode(sys.stdin.readline(), type=JobSpec)
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.ROUTER_HANDOVER, 1)
    with tempfile.TemporaryDirectory(prefix="triptych-", ignore_cleanup_errors=True) as folder:
        address = f"ipc://{folder}/conductor"
        router.bind(address)
        print(msgspec.json.encode({"address": address}).decode(), flush=True)
        outcome = Conductor(job, router, sys.stdin).run()
        router.close(linger=1000)
        with contextlib.suppress(BrokenPipeError):  # the parent may be dead
            print(msgspec.json.encode(outcome).decode(), flush=True)
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
