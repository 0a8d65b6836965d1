"""A worker: takes queries from the conductor, has the pipeline answer them, and keeps the answers.

A plain pipeline answers a batch at a time; a streaming one is handed more queries while others run.

The main thread runs the pipeline. A second thread says every second that the process lives; a third writes media files
after their queries' clocks have stopped.
"""

from __future__ import annotations

import contextlib
import gc
import math
import resource
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import zmq

from configs.errors import RunError
from pipelines.base import Event, Pipeline, Response, StreamingPipeline
from pipelines.launcher import messages
from pipelines.launcher.replay import Replayer, busy_s, digest_of
from pipelines.launcher.worker.clock_sync import ConductorClock
from pipelines.launcher.worker.inspection import look, requested
from pipelines.launcher.worker.power_sampler import PowerSampler
from workloads.records import Query, Sample, query_seed
from workloads.run_folder.media import MediaWriter

if TYPE_CHECKING:
    import torch

BEAT_EVERY_S = 1.0
ROUND_TRIP_MS = 200  # how long a heartbeat's answer is waited for, which tells how the clocks stand
LEAVE_S = 4.0  # how long a rank that has to leave may take to get its answers onto the disk
STEP_S = 0.005  # how long a streaming engine may keep us from looking for new queries
WARM_UP_S, MAX_WARMUPS = 0.5, 50  # a warm-up lasts this long, but for no more batches than that
KEPT_TEXTS = 8  # of a warm-up, to compare with the timed ones; of videos one, which may be large


class Worker:
    """One rank's part in one LoadGen test."""

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
    ) -> None:
        self._required = required  # packages whose versions the run asks for
        self.rank, self.pipeline, self.samples, self.mode = rank, pipeline, samples, mode
        self._address = address
        self._context = zmq.Context()
        self._socket = self._connect(f"worker-{rank}")
        self._patience_s = heartbeat_timeout_s
        self._told: tuple[float, str] | None = None  # when and why this rank has to leave
        self._leaving = threading.Event()
        self._clock, self._sampler = ConductorClock(), sampler
        self._beating = threading.Thread(target=self._beat, daemon=True, name="heartbeat")
        self._writer = MediaWriter(folder)
        self._warm: list[tuple[Query, Response]] = []  # answers from before the clock started
        self._beating.start()

    def run(self, device: torch.device, num_warmups: int, seed: int, loaded: bool, check: Callable[[], None]) -> None:
        """Load unless `loaded`, warm up, answer until told to stop.

        check: called every second of waiting; it raises where waiting has become pointless.
        What goes wrong before the first query is told to the conductor and raised. Raises RunError where the conductor
        gave the run up.
        """
        try:
            if not loaded:
                self.pipeline.load(device)
            sample_s = self._warm_up(num_warmups, seed)
        except Exception as error:
            self._send(messages.Failed(self.rank, _first_line(error)))
            raise
        self._begin_sampling()
        gc.collect()
        gc.freeze()  # imageio's PyAV plugin collects garbage on every close: let it not walk the whole model
        self._send(
            messages.Ready(
                self.rank,
                self.pipeline.batch_size,
                sample_s,
                str(device),
                dict(self.pipeline.effective()),
                list(self.pipeline.fallbacks()),
                isinstance(self.pipeline, StreamingPipeline),
                self.pipeline.repeats,
                self.pipeline.rests,
                requested(type(self.pipeline)),
                look(self.pipeline, self._required),
            )
        )
        message = self._stream(self.pipeline, check) if isinstance(self.pipeline, StreamingPipeline) else self._batches(check)
        while isinstance(message, messages.Replay):
            self._replay(message, device)
            message = self._next(check)
        assert isinstance(message, messages.Stop)
        if not isinstance(self.pipeline, StreamingPipeline):
            self.pipeline.replica.tell(messages.encode(message))
        self._end_sampling()
        error_s = self._clock.error_s(time.perf_counter())
        clock: tuple[float | None, float | None] = (None, None) if math.isinf(error_s) else (self._clock.offset_s, error_s)
        memory, effective, found = _peak_memory(device), dict(self.pipeline.effective()), look(self.pipeline, self._required)
        self._send(messages.Bye(self.rank, memory, self._writer.finish(), None, *clock, effective, found))
        if message.reason == "aborted":
            raise RunError("the run was given up")

    @property
    def why_leave(self) -> str | None:
        """Why this rank has to leave, where it was told to, or should have been, and its main thread has not done so in time."""
        return self._told[1] if self._told and time.monotonic() - self._told[0] > LEAVE_S else None

    def leave_early(self, signal_name: str) -> None:
        """Tell the conductor of a signal that ends this process; what is answered is on disk first, if it takes no longer than that."""
        self._send(messages.Bye(self.rank, {}, self._writer.finish(LEAVE_S), signal_name))

    def close(self) -> None:
        """End when all that was said is on its way, which it may not be at the end of the process."""
        self._leaving.set()
        self._beating.join()
        if self._sampler:
            self._sampler.stop()
        self._socket.close()
        self._context.term()

    def _begin_sampling(self) -> None:
        """The model is loaded; tell how its device is measured, and look at it from now on."""
        if self._sampler:
            self._send(messages.Power(self.rank, [], self._sampler.facts))
            self._sampler.start()

    def _end_sampling(self) -> None:
        if self._sampler:
            self._sampler.stop()
            self._send(messages.Power(self.rank, self._sampler.take(self._clock)))

    def _batches(self, check: Callable[[], None]) -> messages.FromConductor:
        """Answer batch after batch until told something else."""
        while isinstance(message := self._next(check), messages.Work):
            self._send(messages.Done(self.rank, self._answer(message.queries)))
        return message

    def _stream(self, engine: StreamingPipeline, check: Callable[[], None]) -> messages.FromConductor:
        """Keep the engine fed until told something else. Should it break, what it was working on has failed."""
        running: dict[int, Query] = {}
        began: dict[int, float] = {}
        while True:
            if not running or self._socket.poll(0):
                message = self._next(check)
                if not isinstance(message, messages.Work):
                    return message
                running |= {q.id: q for q in message.queries}
                began |= dict.fromkeys((q.id for q in message.queries), time.perf_counter())
                happened = self._attempt(engine, message.queries, running)
            else:
                happened = self._attempt(engine, (), running)
            events = [e for e in happened if e.query_id in running]
            if firsts := [(e.query_id, e.first_token_id) for e in events if e.first_token_id is not None]:
                self._send(messages.First(self.rank, firsts))
            ended = [e for e in events if e.response is not None]
            if results := [self._result(running.pop(e.query_id), e.response, began.pop(e.query_id)) for e in ended if e.response]:
                self._send(messages.Done(self.rank, results))

    def _attempt(self, engine: StreamingPipeline, new: Sequence[Query], running: Mapping[int, Query]) -> Sequence[Event]:
        """Hand over new queries or, where there are none, take a step; where it raises, every running query has failed."""
        try:
            if not new:
                return engine.step(STEP_S)
            engine.submit([self.samples[q.sample_index] for q in new], new)
            return ()
        except Exception as error:  # the run goes on; what failed stays in every denominator
            self._end_where_ranks_are_out_of_step(error)
            _free_memory(error)
            return [Event(query_id, response=Response(error=_first_line(error))) for query_id in running]

    def _next(self, check: Callable[[], None]) -> messages.FromConductor:
        while not self._socket.poll(1000):
            check()
        message: messages.FromConductor = messages.decode_from_conductor(self._socket.recv())
        return message

    def _warm_up(self, num_warmups: int, seed: int) -> float:
        """Full batches outside the clock; seconds a sample in the fastest of the later half.

        A quick pipeline gets more of them than it was asked for: the rate that LoadGen is told rests on them.
        """
        size = self.pipeline.batch_size
        samples = [self.samples[i % len(self.samples)] for i in range(size)]
        queries = [Query(i, s.index, query_seed(seed, s.index)) for i, s in enumerate(samples)]
        spent: list[float] = []
        while len(spent) < num_warmups or (sum(spent) * size < WARM_UP_S and len(spent) < MAX_WARMUPS):
            started = time.perf_counter()
            responses = self._generate(samples, queries)
            spent.append((time.perf_counter() - started) / size)
            if all(r.error for r in responses):  # one bad prompt alone is for the run to count
                raise RunError(f"warm-up failed: {responses[0].error}")
        turned = [*zip(queries, responses, strict=True)]  # each rank keeps others, so that more of them are compared
        turned = [pair for pair in turned[self.rank % size :] + turned[: self.rank % size] if pair[1].error is None]
        self._warm = turned[: 1 if turned[0][1].video_THWC is not None else KEPT_TEXTS]
        return min(spent[len(spent) // 2 :])

    def _answer(self, queries: Sequence[Query]) -> list[messages.Result]:
        samples, began = [self.samples[q.sample_index] for q in queries], time.perf_counter()
        try:
            responses = list(self._generate(samples, queries))
            if len(responses) != len(queries):
                raise RuntimeError(f"pipeline gave {len(responses)} answers to {len(queries)} queries")
        except Exception as error:  # the run goes on; what failed stays in every denominator
            self._end_where_ranks_are_out_of_step(error)
            responses = [Response(error=_first_line(error))] * len(queries)
            _free_memory(error)
        return [self._result(q, r, began) for q, r in zip(queries, responses, strict=True)]

    def _replay(self, replay: messages.Replay, device: torch.device) -> None:
        """Answer again what the conductor drew, when the disk has all that was timed."""
        self._writer.drain()  # first: its work is ours, and on a crowded machine takes its time
        backlog_s = busy_s(device) if self.pipeline.rests else None
        shows = any(response.video_THWC is not None for _, response in self._warm)
        replayer = Replayer(self.rank, self.pipeline, self.samples, device, self._ask, self._keep, shows)
        warm, self._warm = [replayer.warm_up(query, response) for query, response in self._warm], []
        self._send(messages.Replayed(self.rank, warm, backlog_s=backlog_s))
        for answers in replayer.answers(replay):
            self._send(messages.Replayed(self.rank, answers))
        self._send(messages.Replayed(self.rank, [], over=True))

    def _ask(self, samples: Sequence[Sample], queries: Sequence[Query]) -> tuple[Sequence[Response], int | None]:
        """Answers outside the clock; with the first token's id of the one that came last, as it was announced."""
        try:
            if not isinstance(self.pipeline, StreamingPipeline):
                responses = self._generate(samples, queries)
                if len(responses) != len(queries):
                    raise RuntimeError(f"pipeline gave {len(responses)} answers to {len(queries)} queries")
                return responses, None
            self.pipeline.submit(samples, queries)
            announced, found = dict[int, int](), dict[int, Response]()
            while not all(q.id in found for q in queries):
                for event in self.pipeline.step(1.0):
                    if event.first_token_id is not None:
                        announced[event.query_id] = event.first_token_id
                    if event.response is not None:
                        found[event.query_id] = event.response
            return [found[q.id] for q in queries], announced.get(queries[-1].id)
        except Exception as error:
            self._end_where_ranks_are_out_of_step(error)
            _free_memory(error)
            return [Response(error=_first_line(error))] * len(queries), None

    def _keep(self, media: str, response: Response) -> None:
        assert response.video_THWC is not None
        self._writer.put(media, response.video_THWC, response.fps)
        self._writer.drain()

    def _generate(self, samples: Sequence[Sample], queries: Sequence[Query]) -> Sequence[Response]:
        if not isinstance(self.pipeline, StreamingPipeline):  # whose engine tells its followers itself
            self.pipeline.replica.tell(messages.encode(messages.Work(list(queries))))
        return self.pipeline.generate(samples, queries)

    def _end_where_ranks_are_out_of_step(self, error: Exception) -> None:
        """A batch that broke on one rank of a replica leaves the others in the middle of it, for good."""
        if (replica := self.pipeline.replica).size > 1:
            self._send(messages.Failed(self.rank, f"{_first_line(error)} (in {replica.name})"))
            raise RunError("the run was given up") from error

    def _result(self, query: Query, response: Response, began: float) -> messages.Result:
        from_s, to_s = self._clock.of(began), self._clock.of(time.perf_counter())
        if response.error is not None:
            return messages.Result(query.id, "failed", error=response.error)
        media = None
        digest = digest_of(response)  # before the file is begun
        if response.video_THWC is not None:
            media = f"media/{self.mode}-{query.id:06d}.mkv"
            self._writer.put(media, response.video_THWC, response.fps)
        return messages.Result(
            query.id,
            "done",
            dict(response.stages),
            list(response.step_s),
            response.num_units,
            response.num_input_tokens,
            response.first_token_id,
            response.finish_reason,
            [round(s, 6) for s in response.token_gap_s],
            digest,
            media,
            response.text,
            response.finite,
            worked=None if from_s is None or to_s is None else (from_s, to_s),
            tokens=np.asarray(response.token_ids, dtype="<i4").tobytes(),
        )

    def _send(self, message: messages.FromWorker) -> None:
        self._socket.send(messages.encode(message))

    def _connect(self, name: str) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.IDENTITY, name.encode())
        socket.setsockopt(zmq.LINGER, 2000)
        if self._address.conductor_key:
            socket.curve_serverkey = self._address.conductor_key.encode()
            socket.curve_publickey = self._address.worker_public_key.encode()
            socket.curve_secretkey = self._address.worker_secret_key.encode()
        socket.connect(self._address.url)
        return socket

    def _beat(self) -> None:
        """Let the conductor hear from us, and hear whether it lives; whatever the main thread does meanwhile."""
        sock = self._connect(f"beat-{self.rank}")
        sock.send(messages.encode(messages.Hello(self.rank, socket.gethostname())))
        heard = time.monotonic()
        while True:
            with contextlib.suppress(zmq.Again):
                sock.send(messages.encode(messages.Beat(self.rank, time.perf_counter())), zmq.NOBLOCK)
            if self._sampler and (samples := self._sampler.take(self._clock)):
                with contextlib.suppress(zmq.Again):
                    sock.send(messages.encode(messages.Power(self.rank, samples)), zmq.NOBLOCK)
            if self._writer.disk_full:
                sock.send(messages.encode(messages.Failed(self.rank, self._writer.disk_full)))
            patience_ms = ROUND_TRIP_MS  # for the answer to this beat
            while sock.poll(patience_ms):
                heard, word = time.monotonic(), messages.decode_for_heartbeat(sock.recv())
                if isinstance(word, messages.Beat) and word.sent:
                    self._clock.hear(word.sent, word.at, time.perf_counter())
                    patience_ms = 0
                if isinstance(word, messages.Stop):
                    self._told = self._told or (heard, word.why)
            if time.monotonic() - heard > self._patience_s:
                self._told = self._told or (heard, f"the conductor, on rank 0's host, has been silent for {self._patience_s:.0f} s")
            if self._leaving.wait(BEAT_EVERY_S):
                break
        sock.close(linger=0)


def _peak_memory(device: torch.device) -> dict[str, int]:
    import torch

    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in KiB on Linux
    peak = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if device.type == "cuda":
        peak["device"] = torch.cuda.max_memory_allocated(device)
    return peak


def _free_memory(error: Exception) -> None:
    """After a batch that found no memory: let go of what it held, so that the next one may."""
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        traceback.clear_frames(error.__traceback__)
        gc.collect()
        if torch.accelerator.is_available():
            torch.accelerator.empty_cache()


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else 'no message'}"
