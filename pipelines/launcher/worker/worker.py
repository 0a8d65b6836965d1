"""A worker: takes queries from the conductor, has the pipeline answer them, and keeps the answers.

A plain pipeline answers a batch at a time; a streaming one is handed more queries while others run.

The main thread runs the pipeline. A second thread sends heartbeats (heartbeat.py); a third writes media files after their queries'
clocks have stopped.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import zmq

from configs.errors import RunError, describe
from configs.output import has_display, say
from configs.registry import find, name_of
from pipelines.base import Pipeline, Response, StreamingPipeline
from pipelines.launcher import messages
from pipelines.launcher.worker.clock_sync import ConductorClock
from pipelines.launcher.worker.connection import connect
from pipelines.launcher.worker.generation import Generation, OutOfStepError
from pipelines.launcher.worker.heartbeat import LEAVE_S, Heartbeat
from pipelines.launcher.worker.inspection import default_options, inspect
from pipelines.launcher.worker.memory import peak_memory
from pipelines.launcher.worker.power_sampler import PowerSampler
from pipelines.launcher.worker.replayer import Replayer, busy_s
from pipelines.models.response_check import reported_settings
from workloads.records import Query, Sample, without_meta
from workloads.run_folder.media import MediaWriter

if TYPE_CHECKING:
    import torch

STUCK_S = 1.0  # how long a rank whose main thread is stuck may take to get its answers onto the disk


class Worker:
    """One rank's part in one LoadGen test.

    required: packages whose versions the run requires. may_differ: truth checks whose differences the run accepts.
    """

    def __init__(
        self,
        rank: int,
        pipeline: Pipeline,
        samples: Sequence[Sample],
        folder: Path,
        address: messages.Address,
        mode: str,
        heartbeat_timeout_s: float = math.inf,
        sampler: PowerSampler | None = None,
        required: Sequence[str] = (),
        may_differ: Sequence[str] = (),
    ) -> None:
        self.rank, self.pipeline, self.samples = rank, pipeline, without_meta(samples)
        self._sampler, self._required = sampler, required
        gc.freeze()  # libraries that are imported by now: to search them for garbage before the first query takes 0.3 s
        self._context = zmq.Context()
        self._socket = connect(self._context, address, f"worker-{rank}")
        makes_media = not pipeline.workload or bool(find("workloads", pipeline.workload).has_media)
        self._clock, self._writer = ConductorClock(), MediaWriter(folder, makes_media)
        self._generation = Generation(rank, pipeline, self.samples, mode, self._writer, self._clock, may_differ)
        self._heartbeat = Heartbeat(rank, self._context, address, heartbeat_timeout_s, self._clock, sampler, self._writer)

    def run(self, device: torch.device, num_warmups: int, seed: int, loaded: bool, check: Callable[[], None]) -> None:
        """Load unless `loaded`, warm up, answer until the conductor says stop.

        check: called every second of waiting; it raises where no message can come any more.
        An error before the first query is sent to the conductor and raised. Raises RunError where the run was given up.
        """
        try:
            if not loaded:
                self._load(device)
            sample_s = self._generation.warm_up(num_warmups, seed)
            effective, fallbacks = reported_settings(self.pipeline)
        except Exception as error:
            self._send(messages.Failed(self.rank, describe(error)))
            raise
        self._begin_sampling()
        gc.collect()
        gc.freeze()  # the model and its libraries: collections while queries are timed would take 0.2 s each
        self._send(
            messages.Ready(
                self.rank,
                self.pipeline.batch_size,
                sample_s,
                str(device),
                effective,
                fallbacks,
                isinstance(self.pipeline, StreamingPipeline),
                self.pipeline.repeats,
                self.pipeline.rests,
                default_options(type(self.pipeline)),
                inspect(self.pipeline, self._required),
            )
        )
        try:
            stop = self._serve(device, check)
        except OutOfStepError as error:
            self._send(messages.Failed(self.rank, str(error)))
            raise RunError("the run was given up") from error
        if not isinstance(self.pipeline, StreamingPipeline):
            self.pipeline.replica.tell(messages.encode(stop))
        self._end_sampling()
        error_s = self._clock.error_s(time.perf_counter())
        clock: tuple[float | None, float | None] = (None, None) if math.isinf(error_s) else (self._clock.offset_s, error_s)
        memory, (effective, _), inspection = peak_memory(device), reported_settings(self.pipeline), inspect(self.pipeline, self._required)
        first_error, counted = self._writer.finish(), dict(self._generation.counted)
        self._send(messages.Bye(self.rank, memory, first_error, None, *clock, effective, inspection, self._writer.unwritten, counted))
        if stop.reason == "aborted":
            raise RunError("the run was given up")

    def _load(self, device: torch.device) -> None:
        """Load the model. Rank 0 says so where no display shows it."""
        speaks, began = self.rank == 0 and not has_display(), time.perf_counter()
        if speaks:
            say(f"loading {name_of(type(self.pipeline))}")
        self.pipeline.load(device)
        if speaks:
            say(f"loaded after {time.perf_counter() - began:.1f} s; warming up")

    @property
    def why_leave(self) -> str | None:
        """Why this rank has to leave, where its main thread has not done so in time."""
        return self._heartbeat.why_leave

    def leave_early(self, signal_name: str) -> None:
        """Report a signal that ends this process to the conductor; answers are written to disk first, for LEAVE_S at most."""
        first_error = self._writer.finish(LEAVE_S)
        self._send(messages.Bye(self.rank, {}, first_error, signal_name, unwritten=self._writer.unwritten))

    def leave_stuck(self, signal_name: str) -> None:
        """As leave_early, from another thread, where the main one is stuck."""
        first_error = self._writer.finish(STUCK_S)
        self._heartbeat.say_goodbye(messages.Bye(self.rank, {}, first_error, signal_name, unwritten=self._writer.unwritten))

    def close(self) -> None:
        """Wait until all messages are sent; the end of the process would not wait."""
        self._heartbeat.stop()
        if self._sampler:
            self._sampler.stop()
        self._socket.close()
        self._context.term()

    def _begin_sampling(self) -> None:
        """The model is loaded: report how its device is measured, and sample it from now on."""
        if self._sampler:
            self._send(messages.Power(self.rank, [], self._sampler.facts))
            self._sampler.start()

    def _end_sampling(self) -> None:
        if self._sampler:
            self._sampler.stop()
            self._send(messages.Power(self.rank, self._sampler.take(self._clock)))

    def _serve(self, device: torch.device, check: Callable[[], None]) -> messages.Stop:
        """Answer and replay until the conductor says stop."""
        if isinstance(self.pipeline, StreamingPipeline):
            self.pipeline.watch(int(self._socket.getsockopt(zmq.FD)))
            try:
                message = self._stream(self.pipeline, check)
            finally:
                self.pipeline.watch(None)
        else:
            message = self._batches(check)
        while isinstance(message, messages.Replay):
            self._replay(message, device)
            message = self._next(check)
        assert isinstance(message, messages.Stop)
        return message

    def _batches(self, check: Callable[[], None]) -> messages.FromConductor:
        """Answer batch after batch; the first message that is none."""
        while isinstance(message := self._next(check), messages.Work):
            self._send(messages.Done(self.rank, self._generation.answer(message.queries)))
        return message

    def _stream(self, engine: StreamingPipeline, check: Callable[[], None]) -> messages.FromConductor:
        """Keep the engine fed; the first message that brings no queries. Where the engine breaks, its running queries have failed."""
        running: dict[int, Query] = {}
        began: dict[int, float] = {}
        while True:
            if not running or self._has_message:
                message = self._next(check)
                if not isinstance(message, messages.Work):
                    return message
                now = time.perf_counter()
                for query in message.queries:
                    running[query.id], began[query.id] = query, now
                happened = self._generation.advance(engine, message.queries, began)
            else:
                happened = self._generation.advance(engine, (), began)
            firsts: list[messages.FirstToken] = []
            ended: dict[int, Response] = {}
            for event in happened:
                if event.query_id in running:
                    if event.first_token_id is not None:
                        at = None if event.at is None else self._clock.of(event.at)
                        firsts.append((event.query_id, event.first_token_id, at))
                    if event.response is not None and event.query_id not in ended:
                        ended[event.query_id] = event.response
            if waiting := [first for first in firsts if first[0] not in ended]:  # before the results, which take a while
                self._send(messages.First(self.rank, waiting))
            if ended:
                results = self._generation.results([(running.pop(i), response, began.pop(i)) for i, response in ended.items()])
                self._send(messages.Done(self.rank, results, [first for first in firsts if first[0] in ended]))

    def _next(self, check: Callable[[], None]) -> messages.FromConductor:
        while not self._has_message and not self._socket.poll(1000):
            check()
        message: messages.FromConductor = messages.decode_from_conductor(self._socket.recv())
        return message

    @property
    def _has_message(self) -> bool:
        """A tenth of the time of poll(0), which makes a Poller; asked after every step of an engine."""
        return bool(int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)

    def _replay(self, replay: messages.Replay, device: torch.device) -> None:
        """Answer again the queries that the conductor drew, once all timed answers are on disk."""
        self._writer.drain()  # first: writing uses this rank's CPU, for long on a busy machine
        backlog_s = busy_s(device) if self.pipeline.rests else None
        generation = self._generation
        has_videos = any(response.video_THWC is not None for _, response in generation.warm)
        replayer = Replayer(self.rank, self.pipeline, self.samples, device, generation.replay, generation.keep, has_videos)
        warm, generation.warm = [replayer.warm_up(query, response) for query, response in generation.warm], []
        self._send(messages.Replayed(self.rank, warm, backlog_s=backlog_s))
        for answers in replayer.answers(replay):
            self._send(messages.Replayed(self.rank, answers))
        self._send(messages.Replayed(self.rank, [], over=True))

    def _send(self, message: messages.FromWorker) -> None:
        self._socket.send(messages.encode(message))
