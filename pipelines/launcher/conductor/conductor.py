"""The conductor: LoadGen, the query router and the clock, in a process of their own without torch.

Rank 0 starts the process (process.py), writes one JobSpec to its standard input, and reads two JSON lines from its standard output: the
address that workers connect to, and the outcome. Closing its standard input aborts the test: every open query becomes a failed Record,
LoadGen is released, and what was finished is on disk.

Two threads share the work. LoadGen's own notes what it issues; the main one routes: everything that is there is taken, dispatched
and passed on in one go, so that under load messages, calls of LoadGen and writes of records become larger, not more.
"""

from __future__ import annotations

import os
import random
import socket
import time
from pathlib import Path
from typing import Any, TextIO

import zmq

from configs.errors import RunError
from configs.run_config import RunConfig
from pipelines.launcher import messages as wire
from pipelines.launcher.conductor.job import JobSpec
from pipelines.launcher.conductor.liveness import Liveness
from pipelines.launcher.conductor.outcome import make_outcome
from pipelines.launcher.conductor.progress import RunProgress
from pipelines.launcher.conductor.queries import Queries
from pipelines.launcher.replay import REPLAY, Replays, plan
from workloads.run_folder.files import write_outcome
from workloads.run_folder.power_log import PowerLog

POLL_MS = 100
ROUND_S, LONG_ROUND_S = 0.0005, 0.002  # the shortest round: two thousand a second, and under load five hundred, each with all that came
LOADED = 8  # queries issued in a round from which on it gets longer: a round costs as much as ten queries, whatever it brings
CLOSING_S = 0.2  # how long after a process's end its connections may still look open
RELEASE_S = 5.0  # how long an aborted LoadGen may take to return
GOODBYE_S = 120.0  # how long workers may take to write their media


class Conductor:
    """One test, from the first worker's Ready to the last one's Bye."""

    def __init__(self, job: JobSpec, router: zmq.Socket[bytes], parent: TextIO) -> None:
        self.job, self._router, self._parent, self._parent_id = job, router, parent, os.getppid()
        self.config = RunConfig.model_validate(job.config)
        self.folder = Path(job.folder)
        self.progress = RunProgress(job.noun, job.mode, job.world_size, job.show_progress)
        self._queries = Queries(job, self.config, self.progress)
        self._replays = Replays()
        self._liveness = Liveness(self._beat_to, self.config.heartbeat_timeout_s, self.config.answer_timeout_s)
        self._power = PowerLog(self.folder, job.mode)
        self.ready: dict[int, wire.Ready] = {}
        self.byes: dict[int, wire.Bye] = {}
        self.aborted: str | None = None
        self._stopped = False  # whether the workers were sent a Stop
        self._leave_reason: str | None = None  # why a rank leaves before it was sent a Stop

    def run(self) -> dict[str, Any]:
        """Run the test; its entry in outcome.json."""
        poller = zmq.Poller()
        for source in (self._router, self._queries.woken, self._parent.fileno()):
            poller.register(source, zmq.POLLIN)
        with self.progress:
            while not self._finished():
                self._go_round(poller)
            if not self.aborted:
                self._start_replays()
            while self._replays.running and not self.aborted:
                self._go_round(poller)
            self._send_stop()
            self._await_byes(poller)
        self._fail_unwritten()
        self._queries.close()
        return self.outcome()

    def _go_round(self, poller: zmq.Poller) -> None:
        """Take what is there, and pass it on."""
        self._queries.asleep = True
        events = dict(poller.poll(0 if self._queries.any_issued else POLL_MS))
        self._queries.asleep, began = False, time.perf_counter()
        if self._parent.fileno() in events:
            poller.unregister(self._parent.fileno())
            self._end_as_requested(self._parent.readline())
        elif self.is_orphan and not self._leave_reason:  # children of rank 0 may hold our input open
            self._end_as_requested("")
        if self._queries.woken in events:
            os.read(self._queries.woken, 4096)
        self._receive()
        num_issued = self._take_issued()
        for rank, work in self._queries.assign():
            self._send(rank, work)
        self._check_liveness()
        round_s = min(LONG_ROUND_S, ROUND_S * max(1.0, num_issued / LOADED))
        if (early := began + round_s - time.perf_counter()) > 0:
            time.sleep(early)

    def abort(self, reason: str) -> None:
        """Fail every open query and release LoadGen; the first reason is kept."""
        if self.aborted is None:
            self.aborted = reason
            self._take_issued()
            self._release()
            self._send_stop()

    def _end_as_requested(self, why: str) -> None:
        """Rank 0 wrote why, or it is dead. What ranks have said before counts first."""
        self._take_messages()
        self._leave_reason = self._leave_reason or why.strip() or "interrupted"
        self._receive()
        if self.is_orphan:
            write_outcome(self.folder, self.job.mode, self.outcome())  # at once: the launcher may end this process too

    @property
    def is_orphan(self) -> bool:
        """Whether rank 0 is dead, so that this process writes the outcome and the report."""
        return os.getppid() != self._parent_id

    @property
    def has_stopped_parent(self) -> bool:
        """Whether rank 0 is alive and says nothing any more, as a process that was stopped."""
        return not self.is_orphan and self._liveness.is_silent(0)

    def _finished(self) -> bool:
        if self.aborted:
            test = self._queries.test
            return test is None or test.join(0) or time.monotonic() > self._give_up_at
        return self._queries.all_answered

    def _take_issued(self) -> int:
        num_issued = self._queries.take_issued()
        if num_issued and self.aborted:
            self._release()
        return num_issued

    def _release(self) -> None:
        self._give_up_at = time.monotonic() + RELEASE_S
        self._queries.fail_all(self.aborted or "")

    def _receive(self) -> None:
        """Take all messages that are there. A rank may leave because another one died, whose end shows a little later."""
        self._take_messages()
        if self._leave_reason and not self.aborted:
            time.sleep(CLOSING_S)
            self._take_messages()
            self.abort(self._liveness.describe_death() or self._leave_reason)

    def _take_messages(self) -> None:
        while True:
            try:
                _, payload = self._router.recv_multipart(zmq.NOBLOCK)  # a poll before it would take longer than all that follows
            except zmq.Again:
                return
            try:
                message = wire.decode_from_worker(payload)
            except RunError as error:
                self.abort(str(error))
                continue
            self._liveness.note_message(message.rank)
            match message:
                case wire.Hello():
                    self._liveness.note_connection(message.rank, message.host)
                case wire.Ready():
                    self._take_ready(message)
                case wire.First():
                    self._queries.first_tokens(message.tokens)
                    self._liveness.note_answer(message.rank)
                case wire.Done():
                    self._take_done(message)
                case wire.Replayed():
                    self._replays.take(message)
                    self._liveness.note_answer(message.rank)
                case wire.Failed():
                    self._liveness.note_leave(message.rank)
                    self._leave_reason = self._leave_reason or f"{self._liveness.name(message.rank)}: {message.error}"
                case wire.Beat() if message.sent:
                    self._reach(f"beat-{message.rank}", wire.Beat(message.rank, message.sent, time.perf_counter()))
                case wire.Power():
                    self._take_power(message)
                case wire.Bye():
                    self.byes[message.rank] = message
                    self._liveness.note_leave(message.rank)
                    if message.signal and not self._stopped:
                        self._leave_reason = self._leave_reason or f"interrupted by {message.signal} at {self._liveness.name(message.rank)}"

    def _take_ready(self, ready: wire.Ready) -> None:
        """Start the test where this rank is the last."""
        self.ready[ready.rank] = ready
        self._liveness.note_answer(ready.rank, ready.sample_s * ready.batch_size)
        self._queries.join(ready)
        self.progress.ready(len(self.ready))
        if len(self.ready) == self.job.world_size and not self.aborted:
            self._queries.start(sum(1 / max(r.sample_s, 1e-9) for r in self.ready.values()))

    def _take_done(self, done: wire.Done) -> None:
        try:
            if done.tokens:
                self._queries.first_tokens(done.tokens)
            self._liveness.note_answer(done.rank, self._queries.finish(done))
        except RunError as error:
            self.abort(str(error))

    def _start_replays(self) -> None:
        """The clock has stopped: have every replica answer a few timed queries once more. See pipelines/launcher/replay.py."""
        truth = self.config.truth
        if not truth.replays or (self.job.mode, self.config.mode) == ("accuracy", "both"):  # the timed test was followed by replays already
            return
        drawn = self._queries.draw(random.Random(self._queries.seed(REPLAY)))
        in_batches = any(ready.repeats == "in_batch" for ready in self.ready.values())
        planned = plan(drawn, sorted(self.ready), truth.replays, in_batches)
        for rank, replay in self._replays.start(planned, self._queries.next_id, truth.max_s):
            self._send(rank, replay)

    def _take_power(self, power: wire.Power) -> None:
        if power.facts:
            self._power.meter(power.facts)
        try:
            self._power.take(power.rank, power.samples, self._queries.zero_s)
        except OSError as error:
            self.abort(f"the conductor on {socket.gethostname()}: power.jsonl cannot be written: {error.strerror}")

    def _check_liveness(self) -> None:
        if (message := self._liveness.check(lambda: self._queries.busy() | self._replays.busy())) and not self.aborted:
            self.abort(message)

    def _send_stop(self) -> None:
        if self._stopped:
            return
        self._stopped = True
        stop = wire.Stop("aborted" if self.aborted else "finished", self.aborted or "")
        for rank in self._liveness.ranks:
            self._send(rank, stop)
            if self.aborted:
                self._reach(f"beat-{rank}", stop)

    def _await_byes(self, poller: zmq.Poller) -> None:
        give_up = time.monotonic() + (RELEASE_S if self.aborted else GOODBYE_S)
        while not set(self.ready) <= set(self.byes) and time.monotonic() < give_up:
            events = dict(poller.poll(POLL_MS))
            if self._parent.fileno() in events:
                poller.unregister(self._parent.fileno())
                why = self._parent.readline()
                if not self.aborted:
                    self._end_as_requested(why)
                    break
            self._receive()
            self._check_liveness()
            if self.aborted and set(self.ready) <= {*self.byes, *self._liveness.dead()}:
                break
        missing = sorted(set(self.ready) - set(self.byes))
        if missing and not self.aborted:
            self.aborted = f"ranks {missing} did not finish writing their answers within {GOODBYE_S:.0f} s"

    def _fail_unwritten(self) -> None:
        """An answer whose file is not on disk is none, however early its clock was stopped."""
        causes = {name: cause for bye in self.byes.values() for name, cause in bye.unwritten.items()}
        try:
            self._queries.fail_unwritten(causes, self.ready.keys() - self.byes.keys())
        except RunError as error:
            self.aborted = self.aborted or str(error)

    def _send(self, rank: int, message: wire.FromConductor) -> None:
        self._reach(f"worker-{rank}", message)

    def _beat_to(self, rank: int) -> bool:
        return self._reach(f"beat-{rank}", wire.Beat(rank))

    def _reach(self, name: str, message: wire.FromConductor | wire.Beat) -> bool:
        """Send; whether the name is connected."""
        try:
            self._router.send_multipart([name.encode(), wire.encode(message)])
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            return False
        return True

    def outcome(self) -> dict[str, Any]:
        num_ranks = self.job.world_size * self.config.parallel.size
        return make_outcome(self.job, self.aborted, self._queries, self.ready, self.byes, self._replays, self._power.outcome(), num_ranks)
