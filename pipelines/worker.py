"""A worker: pulls queries from the conductor, has the pipeline answer them, and keeps the answers.

The main thread runs the pipeline. A second thread says every second that the process lives; a third writes media files
after their queries' clocks have stopped.
"""

from __future__ import annotations

import gc
import hashlib
import resource
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import zmq

from configs.errors import RunError
from pipelines import wire
from pipelines.base import Pipeline, Response
from pipelines.media import MediaWriter
from workloads.records import Query, Sample, query_seed

if TYPE_CHECKING:
    import torch

BEAT_EVERY_S = 1.0
WARM_UP_S, MAX_WARMUPS = 0.5, 50  # a warm-up lasts this long, but for no more batches than that


class Worker:
    """One rank's part in one LoadGen test."""

    def __init__(self, rank: int, pipeline: Pipeline, samples: Sequence[Sample], folder: Path, address: str, mode: str) -> None:
        self.rank, self.pipeline, self.samples, self.mode = rank, pipeline, samples, mode
        self._address = address
        self._context = zmq.Context()
        self._socket = self._connect(f"worker-{rank}")
        self._leaving = threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True, name="heartbeat")
        self._writer = MediaWriter(folder)
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
            self._send(wire.Failed(self.rank, _first_line(error)))
            raise
        gc.collect()
        gc.freeze()  # imageio's PyAV plugin collects garbage on every close: let it not walk the whole model
        self._send(
            wire.Ready(
                self.rank,
                self.pipeline.batch_size,
                sample_s,
                str(device),
                dict(self.pipeline.effective()),
                list(self.pipeline.fallbacks()),
            )
        )
        self._send(wire.Want(self.rank, self.pipeline.batch_size))
        while isinstance(message := self._next(check), wire.Work):
            self._send(wire.Done(self.rank, self._answer(message.queries)))
            self._send(wire.Want(self.rank, self.pipeline.batch_size))
        self._send(wire.Bye(self.rank, _peak_memory(device), self._writer.finish()))
        if message.reason == "aborted":
            raise RunError("the run was given up")

    def close(self) -> None:
        self._leaving.set()
        self._beating.join()
        self._socket.close()
        self._context.term()

    def _next(self, check: Callable[[], None]) -> wire.FromConductor:
        while not self._socket.poll(1000):
            check()
        message: wire.FromConductor = wire.decode_from_conductor(self._socket.recv())
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
            responses = self.pipeline.generate(samples, queries)
            spent.append((time.perf_counter() - started) / size)
            if failed := next((r.error for r in responses if r.error), None):
                raise RuntimeError(f"warm-up failed: {failed}")
        return min(spent[len(spent) // 2 :])

    def _answer(self, queries: Sequence[Query]) -> list[wire.Result]:
        samples = [self.samples[q.sample_index] for q in queries]
        try:
            responses = list(self.pipeline.generate(samples, queries))
            if len(responses) != len(queries):
                raise RuntimeError(f"pipeline gave {len(responses)} answers to {len(queries)} queries")
        except Exception as error:  # the run goes on; what failed stays in every denominator
            responses = [Response(error=_first_line(error))] * len(queries)
        return [self._result(q, r) for q, r in zip(queries, responses, strict=True)]

    def _result(self, query: Query, response: Response) -> wire.Result:
        if response.error is not None:
            return wire.Result(query.id, "failed", error=response.error)
        media = None
        content = (response.text or "").encode()
        if response.video_THWC is not None:
            content = response.video_THWC.tobytes()
            media = f"media/{self.mode}-{query.id:06d}.mkv"
            self._writer.put(media, response.video_THWC, response.fps)
        return wire.Result(
            query.id,
            "done",
            dict(response.stages),
            list(response.step_s),
            response.num_units,
            hashlib.sha256(content).hexdigest()[:16],
            media,
            response.text,
            response.finite,
        )

    def _send(self, message: wire.FromWorker) -> None:
        self._socket.send(wire.encode(message))

    def _connect(self, name: str) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.IDENTITY, name.encode())
        socket.setsockopt(zmq.LINGER, 2000)
        socket.connect(self._address)
        return socket

    def _beat(self) -> None:
        socket = self._connect(f"beat-{self.rank}")
        message = wire.encode(wire.Beat(self.rank))
        while not self._leaving.wait(BEAT_EVERY_S):
            socket.send(message)
        socket.close(linger=0)


def _peak_memory(device: torch.device) -> dict[str, int]:
    import torch

    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in KiB on Linux
    peak = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if device.type == "cuda":
        peak["device"] = torch.cuda.max_memory_allocated(device)
    return peak


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else 'no message'}"
