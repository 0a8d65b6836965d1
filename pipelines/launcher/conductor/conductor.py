"""The conductor: LoadGen, the query router and the clock, in a process of their own without torch.

Rank 0 starts it, writes one JobSpec to its standard input, and reads two JSON lines from its standard output: the
address that workers connect to, and the outcome. Closing its standard input aborts the test: whatever is outstanding
becomes a failed Record, LoadGen is released, and what was finished is on disk.

Two threads share the work. LoadGen's own notes what it issues; the main one routes: everything that is there is taken, dispatched
and passed on in one go, so that under load messages, LoadGen's calls and lines of records grow longer instead of more.
Who is given what is decided in pipelines/distributed/dispatch.py.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any, TextIO

import msgspec
import zmq

from configs.run_config import RunConfig
from pipelines.distributed.dispatch import PullDispatch, PushDispatch, ReplicaState
from pipelines.launcher import messages as wire
from pipelines.launcher.brief_report import report_briefly
from pipelines.launcher.conductor.liveness import Vigil
from pipelines.launcher.conductor.progress import RunProgress
from pipelines.launcher.conductor.sockets import listen, listen_across_nodes
from pipelines.launcher.replay import REPLAY, plan
from workloads.loadgen.load_test import LoadTest
from workloads.records import Query, Record, query_seed
from workloads.run_folder.files import write_outcome
from workloads.run_folder.power_log import PowerLog
from workloads.run_folder.record_log import RecordLog

POLL_MS = 100
SWITCH_S = 0.001  # how long one thread may keep the other from Python; by default it is five times that
ROUND_S = 0.0005  # a round takes at least so long: two thousand a second, each with all that came meanwhile
CLOSING_S = 0.2  # how long after a process's end its connections may still seem open
RELEASE_S = 5.0  # how long an aborted LoadGen may take to return
GOODBYE_S = 120.0  # how long workers may take to write their media


class Rest(msgspec.Struct):
    """What an accuracy test that is resumed has left to ask: samples, and what its earlier stretches came to.

    first_id, began_s: the number of its first query, and its time on the clock of the earlier ones. logs: folder of LoadGen's logs.
    """

    samples: list[int]
    num_kept: int
    first_id: int
    began_s: float
    logs: str
    earlier: list[dict[str, Any]] = []


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
    host: str | None = None  # by which other nodes know this one; None where there is one node
    port: int | None = None
    rest: Rest | None = None
    audit: dict[str, int] | None = None  # LoadGen's settings of a compliance test


class Asked(msgspec.Struct, gc=False):
    """A query that LoadGen issued and that is not answered yet."""

    query: Query
    sample_index: int
    loadgen_id: int
    issued: float
    group: int
    expected: float = 0.0  # tokens it was thought to cost
    rank: int = -1
    started: float | None = None
    first_token: float | None = None
    batch_size: int = 1


class Conductor:
    """One test, from the first worker's Ready to the last one's Bye."""

    def __init__(self, job: JobSpec, router: zmq.Socket[bytes], parent: TextIO) -> None:
        self.job, self._router, self._parent, self._parent_id = job, router, parent, os.getppid()
        self.config = RunConfig.model_validate(job.config)
        self.folder = Path(job.folder)
        self._rest = job.rest or Rest(list(range(job.num_samples)), 0, 0, 0.0, job.mode)
        self._log = RecordLog(self.folder, job.mode, self._rest.first_id)
        self._vigil = Vigil(self._beat_to, self.config.heartbeat_timeout_s, self.config.answer_timeout_s)
        self._power = PowerLog(self.folder, job.mode)
        self._stopped = False  # whether the workers were told to stop
        self._woken, self._wake = os.pipe()
        self._asleep = False  # whether the main thread waits to be woken
        self._issued: deque[Asked] = deque()  # filled on LoadGen's thread
        self._dispatch: Any = PushDispatch(self.config.dispatch.policy) if self.config.is_server else PullDispatch()
        self._out: dict[int, Asked] = {}
        self._seed = functools.cache(functools.partial(query_seed, self.config.seed))
        self._next_id, self._next_group = self._rest.first_id, 0
        self._began: float | None = None
        self._test: LoadTest | None = None
        self.ready: dict[int, wire.Ready] = {}
        self.byes: dict[int, wire.Bye] = {}
        self.aborted: str | None = None
        self._replaying: dict[int, float] = {}  # ranks that answer again, since when
        self._replayed: list[wire.Answer] = []
        self._backlog_s: dict[int, float | None] = {}
        self._leaves: str | None = None  # why a rank leaves that has not been told to
        self.num_done = self.num_failed = 0
        self.progress = RunProgress(job.noun, job.mode, job.world_size, job.show_progress)

    def run(self) -> dict[str, Any]:
        """Carry the test through; the outcome as it goes into outcome.json."""
        poller = zmq.Poller()
        for source in (self._router, self._woken, self._parent.fileno()):
            poller.register(source, zmq.POLLIN)
        with self.progress:
            while not self._finished():
                self._go_round(poller)
            if not self.aborted:
                self._ask_again()
            while self._replaying and not self.aborted:
                self._go_round(poller)
            self._say_stop()
            self._await_byes(poller)
        self._log.close()
        return self.outcome()

    def _go_round(self, poller: zmq.Poller) -> None:
        """Take what is there, and pass it on."""
        self._asleep = True
        events = dict(poller.poll(0 if self._issued else POLL_MS))
        self._asleep, began = False, time.perf_counter()
        if self._parent.fileno() in events:
            poller.unregister(self._parent.fileno())
            self._end_as_told(self._parent.read())
        if self._woken in events:
            os.read(self._woken, 4096)
        self._receive()
        self._take_issued()
        self._hand_out()
        self._look_for_the_dead()
        if (early := began + ROUND_S - time.perf_counter()) > 0:
            time.sleep(early)

    def abort(self, reason: str) -> None:
        """Fail whatever is outstanding and let LoadGen go; the first reason is kept."""
        if self.aborted is None:
            self.aborted = reason
            self._take_issued()
            self._release()
            self._say_stop()

    def _end_as_told(self, why: str) -> None:
        """Our input was closed: by rank 0, which may say why, or by its death."""
        self._leaves = self._leaves or f"interrupted{why and ' by '}{why}"
        self._receive()
        if self.is_orphan:
            write_outcome(self.folder, self.job.mode, self.outcome())  # at once: we may be ended with our launcher

    @property
    def is_orphan(self) -> bool:
        """Whether rank 0 is dead, so that the last word is ours."""
        return os.getppid() != self._parent_id

    def _finished(self) -> bool:
        if self.aborted:
            return self._test is None or self._test.join(0) or time.monotonic() > self._give_up_at
        return self._test is not None and not self._test.running and not self._out and not self._dispatch.waiting

    def _release(self) -> None:
        self._give_up_at = time.monotonic() + RELEASE_S
        left = [*self._out.values(), *self._dispatch.waiting]
        self._out.clear()
        self._dispatch.waiting.clear()
        reason = self.aborted or ""
        by_rank: dict[int, list[tuple[Asked, wire.Result]]] = {}
        for asked in left:
            by_rank.setdefault(asked.rank, []).append((asked, wire.Result(asked.query.id, "failed", error=reason)))
        for rank, answered in by_rank.items():
            self._close_queries(rank, answered)

    def _receive(self) -> None:
        """Take all that is there. Where a rank leaves, its cause may be another one's death, and more goodbyes may be on their way."""
        self._take_messages()
        if self._leaves and not self.aborted:
            time.sleep(CLOSING_S)
            self._take_messages()
            self.abort(self._vigil.death() or self._leaves)

    def _take_messages(self) -> None:
        while self._router.poll(0):
            _, payload = self._router.recv_multipart()
            message = wire.decode_from_worker(payload)
            self._vigil.seen(message.rank)
            match message:
                case wire.Hello():
                    self._vigil.hello(message.rank, message.host)
                case wire.Ready():
                    self.ready[message.rank] = message
                    self._vigil.answered(message.rank, message.sample_s * message.batch_size)
                    capacity = (self.config.dispatch.max_in_flight if message.streams else None) or message.batch_size
                    self._dispatch.join(ReplicaState(message.rank, capacity, 1 / max(message.sample_s, 1e-9), message.streams))
                    self.progress.ready(len(self.ready))
                    if len(self.ready) == self.job.world_size and not self.aborted:
                        self._start_test()
                case wire.First():
                    self._take_first(message)
                case wire.Done():
                    self._take_done(message)
                case wire.Replayed():
                    self._take_replayed(message)
                case wire.Failed():
                    self._vigil.left(message.rank)
                    self._leaves = self._leaves or f"{self._vigil.name(message.rank)}: {message.error}"
                case wire.Beat() if message.sent:
                    self._reach(f"beat-{message.rank}", wire.Beat(message.rank, message.sent, time.perf_counter()))
                case wire.Power():
                    self._take_power(message)
                case wire.Bye():
                    self.byes[message.rank] = message
                    self._vigil.left(message.rank)
                    if message.signal and not self._stopped:
                        self._leaves = self._leaves or f"interrupted by {message.signal} at {self._vigil.name(message.rank)}"

    def _start_test(self) -> None:
        samples_per_s = sum(1 / max(r.sample_s, 1e-9) for r in self.ready.values())
        self._test = LoadTest(
            self.config,
            self.job.mode,
            len(self._rest.samples),
            samples_per_s,
            self.job.streams,
            self.folder / self._rest.logs,
            self._on_issue,
            self.job.audit,
        )
        self._test.start()

    def _on_issue(self, loadgen_ids: list[int], indices: list[int]) -> None:
        """On LoadGen's thread."""
        now = time.perf_counter()
        assert self._test is not None
        if self.job.rest:
            indices = [self.job.rest.samples[i] for i in indices]
        scheduled_s = self._test.scheduled_s(self._next_id) or 0.0
        if self._began is None or now - scheduled_s < self._began:  # the best-kept appointment tells when the test began
            self._began = now - scheduled_s
        for loadgen_id, index in zip(loadgen_ids, indices, strict=True):
            self._issued.append(Asked(Query(self._next_id, index, self._seed(index)), index, loadgen_id, now, self._next_group))
            self._next_id += 1
        self._next_group += 1
        if self._asleep:
            self._asleep = False
            os.write(self._wake, b"+")

    def _take_issued(self) -> None:
        if not self._issued:
            return
        count = len(self._issued)
        items = [self._issued.popleft() for _ in range(count)]
        self._log.issued([asked.sample_index for asked in items])
        self._dispatch.add(items)
        self.progress.total(self._next_id)
        if self.aborted:
            self._release()

    def _hand_out(self) -> None:
        now = time.perf_counter()
        for rank, batch in self._dispatch.assign(now):
            for asked in batch:
                asked.rank, asked.started, asked.batch_size = rank, now, 1 if self.job.streams else len(batch)
                self._out[asked.query.id] = asked
            self._send(rank, wire.Work([a.query for a in batch]))

    def _take_first(self, first: wire.First) -> None:
        """Stop the clock of the first tokens."""
        now = time.perf_counter()
        known = [(self._out[query_id], token_id) for query_id, token_id in first.tokens if query_id in self._out]
        for asked, _ in known:
            asked.first_token = now
        self._vigil.answered(first.rank)
        assert self._test is not None
        self._test.first_tokens([(asked.loadgen_id, token_id) for asked, token_id in known])

    def _take_done(self, done: wire.Done) -> None:
        known = [(self._out.pop(r.query_id), r) for r in done.results if r.query_id in self._out]
        self._vigil.answered(done.rank, max((time.perf_counter() - (a.started or 0.0) for a, _ in known), default=0.0))
        self._dispatch.finished(done.rank, [(a, r.num_input_tokens + r.num_units) for a, r in known], time.perf_counter())
        self._close_queries(done.rank, known)

    def _ask_again(self) -> None:
        """The clock has stopped: have every replica answer a few timed queries once more. See pipelines/launcher/replay.py."""
        truth = self.config.truth
        if not truth.replays or (self.job.mode, self.config.mode) == ("accuracy", "both"):  # they were replayed after the timed test
            return
        drawn = self._log.draw(self.job.mode, random.Random(self._seed(REPLAY)))
        in_batches = any(ready.repeats == "in_batch" for ready in self.ready.values())
        for rank, queries in plan(drawn, sorted(self.ready), truth.replays, in_batches).items():
            self._replaying[rank] = time.perf_counter()
            self._send(rank, wire.Replay(queries, self._next_id, truth.max_s))

    def _take_replayed(self, replayed: wire.Replayed) -> None:
        self._replayed += replayed.answers
        self._vigil.answered(replayed.rank)
        if replayed.backlog_s is not None:
            self._backlog_s[replayed.rank] = replayed.backlog_s
        if replayed.over:
            self._replaying.pop(replayed.rank, None)

    def _take_power(self, power: wire.Power) -> None:
        if power.facts:
            self._power.meter(power.facts)
        try:
            self._power.take(power.rank, power.samples, None if self._began is None else self._began - self._rest.began_s)
        except OSError as error:
            self.abort(f"the conductor on {socket.gethostname()}: power.jsonl cannot be written: {error.strerror}")

    def _close_queries(self, rank: int, answered: list[tuple[Asked, wire.Result]]) -> None:
        """Stop the queries' clocks, tell LoadGen, keep the Records."""
        completed = time.perf_counter()
        if not answered:
            return
        assert self._test is not None
        self._test.first_tokens([(a.loadgen_id, -1) for a, _ in answered if a.first_token is None])  # of those that failed before it
        self._test.complete([(a.loadgen_id, r.tokens or r.digest, r.num_units) for a, r in answered])
        num_failed = sum(r.status == "failed" for _, r in answered)
        self.num_done += len(answered) - num_failed
        self.num_failed += num_failed
        self.progress.answered(rank, len(answered), num_failed)
        try:
            self._log.write(_LINES.encode_lines([self._record(a, r, rank, completed) for a, r in answered]))
        except OSError as error:
            self.abort(f"the conductor on {socket.gethostname()}: records.jsonl cannot be written: {error.strerror}")

    def _record(self, asked: Asked, result: wire.Result, rank: int, completed: float) -> Record:
        assert self._began is not None
        assert self._test is not None
        began, scheduled_s, query, r = self._began - self._rest.began_s, self._test.scheduled_s(asked.query.id), asked.query, result
        return Record(
            query.id,
            query.sample_index,
            query.seed,
            self.job.mode,
            r.status,
            rank,
            issued_s=asked.issued - began if scheduled_s is None else scheduled_s,
            completed_s=completed - began,
            started_s=None if asked.started is None else asked.started - began,
            batch_size=asked.batch_size,
            group=asked.group,
            stages=r.stages,
            step_s=r.step_s,
            num_units=r.num_units,
            num_input_tokens=r.num_input_tokens,
            first_token_s=None if asked.first_token is None else asked.first_token - began,
            first_token_id=r.first_token_id,
            finish_reason=r.finish_reason,
            token_gap_s=r.token_gap_s,
            digest=r.digest,
            media=r.media,
            text=r.text,
            finite=r.finite,
            error=r.error,
            worked_s=None if r.worked is None else (round(r.worked[0] - began, 6), round(r.worked[1] - began, 6)),
        )

    def _look_for_the_dead(self) -> None:
        if (wrong := self._vigil.look(self._at_work)) and not self.aborted:
            self.abort(wrong)

    def _at_work(self) -> dict[int, tuple[str, float]]:
        """What each rank has had for longest, and for how many seconds."""
        now, oldest = time.perf_counter(), dict[int, Asked]()
        for asked in self._out.values():
            oldest.setdefault(asked.rank, asked)
        found = {rank: (f"query {a.query.id} (sample {a.sample_index})", now - (a.started or now)) for rank, a in oldest.items()}
        return found | {rank: ("queries asked again when the clock had stopped", now - since) for rank, since in self._replaying.items()}

    def _say_stop(self) -> None:
        if self._stopped:
            return
        self._stopped = True
        stop = wire.Stop("aborted" if self.aborted else "finished", self.aborted or "")
        for rank in self._vigil.ranks:
            self._send(rank, stop)
            if self.aborted:
                self._reach(f"beat-{rank}", stop)

    def _await_byes(self, poller: zmq.Poller) -> None:
        give_up = time.monotonic() + (RELEASE_S if self.aborted else GOODBYE_S)
        while not set(self.ready) <= set(self.byes) and time.monotonic() < give_up:
            events = dict(poller.poll(POLL_MS))
            if self._parent.fileno() in events:
                poller.unregister(self._parent.fileno())
                why = self._parent.read()
                if not self.aborted:
                    self._end_as_told(why)
                    break
            self._receive()
            self._look_for_the_dead()
            if self.aborted and set(self.ready) <= {*self.byes, *self._vigil.gone()}:
                break
        missing = sorted(set(self.ready) - set(self.byes))
        if missing and not self.aborted:
            self.aborted = f"ranks {missing} did not finish writing their answers within {GOODBYE_S:.0f} s"

    def _send(self, rank: int, message: wire.FromConductor) -> None:
        self._reach(f"worker-{rank}", message)

    def _beat_to(self, rank: int) -> bool:
        return self._reach(f"beat-{rank}", wire.Beat(rank))

    def _reach(self, name: str, message: wire.FromConductor | wire.Beat) -> bool:
        """Whether there is anybody of that name."""
        try:
            self._router.send_multipart([name.encode(), wire.encode(message)])
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            return False
        return True

    def outcome(self) -> dict[str, Any]:
        ranks = [
            {
                "rank": r.rank,
                "device": r.device,
                "batch_size": r.batch_size,
                "warmup_sample_s": r.sample_s,
                "effective": r.effective,
                "fallbacks": r.fallbacks,
                "repeats": r.repeats,
                "rests": r.rests,
                "requested": r.requested,
                "found": r.found,
                "effective_after": self.byes[r.rank].effective if r.rank in self.byes else None,
                "found_after": self.byes[r.rank].found if r.rank in self.byes else None,
                "backlog_s": self._backlog_s.get(r.rank),
                "memory": self.byes[r.rank].memory if r.rank in self.byes else {},
                "clock_offset_s": self.byes[r.rank].clock_offset_s if r.rank in self.byes else None,
                "clock_error_s": self.byes[r.rank].clock_error_s if r.rank in self.byes else None,
                "error": self.byes[r.rank].error if r.rank in self.byes else "left without a word",
            }
            for r in sorted(self.ready.values(), key=lambda r: r.rank)
        ]
        return {
            "aborted": self.aborted or (self._test.error if self._test else None),
            "num_issued": self._next_id - self._rest.first_id + self._rest.num_kept,
            "num_done": self.num_done + self._rest.num_kept,
            "num_failed": self.num_failed,
            "target_qps": self._test.target_qps if self._test else None,
            "loadgen_returned": bool(self._test and not self._test.running),
            "ranks": ranks,
            "replays": msgspec.to_builtins(self._replayed),
            "num_ranks": self.job.world_size * self.config.parallel.size,
            "power": self._power.outcome(),
            **({"earlier": self._rest.earlier} if self.job.rest else {}),
        }


_LINES = msgspec.json.Encoder()


def main() -> None:
    """Read a JobSpec, run the test, report. Exits at once even where an aborted LoadGen still sleeps."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which closes our input
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    job = msgspec.json.decode(sys.stdin.readline(), type=JobSpec)
    sys.setswitchinterval(SWITCH_S)
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.ROUTER_HANDOVER, 1)
    router.setsockopt(zmq.ROUTER_MANDATORY, 1)  # sending to a process that is gone is an error
    router.setsockopt(zmq.SNDHWM, 0)  # and to one that is stopped does not wait
    with tempfile.TemporaryDirectory(prefix="triptych-", ignore_cleanup_errors=True) as folder:
        guard = None
        if job.host is None:
            address = listen(router, folder)
        else:
            address, guard = listen_across_nodes(router, job.host, job.port)
        print(msgspec.json.encode(address).decode(), flush=True)
        conductor = Conductor(job, router, sys.stdin)
        outcome = conductor.run()
        if conductor.is_orphan:
            write_outcome(conductor.folder, job.mode, outcome)
            report_briefly(conductor.folder)
        router.close(linger=1000)
        if guard:
            guard.stop()
        with contextlib.suppress(BrokenPipeError):  # the parent may be dead
            print(msgspec.json.encode(outcome).decode(), flush=True)
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
