"""A pipeline on a thread of its own that answers requests at any time.

A streaming pipeline gets queries while others run, at most `batch_size`; a plain one gets batches of the queries that wait.
What it returns passes ResponseCheck; what cannot be used is an error response.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from configs.errors import describe
from pipelines.base import Event, Pipeline, Response, StreamingPipeline
from pipelines.models.response_check import ResponseCheck
from workloads.records import WITHHELD, Query, Sample

STEP_S = 0.005  # the longest step of a streaming pipeline before new requests are looked for


class BrokenError(Exception):
    """The pipeline raised: the queries that it ran have no answer."""


@dataclass(frozen=True, slots=True)
class Question:
    """A query of a client. seed: of its answer."""

    prompt: str
    seed: int
    images: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class _Entry:
    sample: Sample
    query: Query
    deliver: Callable[[Event | BrokenError], None]


class Engine:
    """Takes questions on any thread. `deliver` is called on the engine's thread with every event; the last has a response."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline, self._check = pipeline, ResponseCheck(pipeline)
        self._numbers = itertools.count()
        self._new: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._waiting: deque[_Entry] = deque()
        self._running: dict[int, _Entry] = {}
        self._began: dict[int, float] = {}  # when the pipeline was handed each running query
        self._left: set[int] = set()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def ask(self, question: Question, deliver: Callable[[Event | BrokenError], None]) -> int:
        """Put a question into the queue. Returns its number."""
        number = next(self._numbers)
        entry = _Entry(Sample(number, question.prompt, WITHHELD, question.images), Query(number, number, question.seed), deliver)
        self._new.put(entry)
        return number

    def forget(self, number: int) -> None:
        """The client is gone: a query that waits is dropped. One that runs goes on, as pipelines cannot cancel, and is not delivered."""
        self._left.add(number)

    def close(self) -> None:
        """End after the current batch or step; the queries that wait fail."""
        self._closing = True
        self._new.put(None)
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._closing:
            self._take(wait=not self._running and not self._waiting)
            if isinstance(self._pipeline, StreamingPipeline):
                self._step(self._pipeline)
            else:
                self._answer_batch()
        self._take(wait=False)
        for entry in [*self._running.values(), *self._waiting]:
            entry.deliver(BrokenError("the server is being stopped"))

    def _take(self, wait: bool) -> None:
        """Take everything that has arrived. wait: until there is something."""
        while wait or not self._new.empty():
            if (entry := self._new.get()) is not None:
                self._waiting.append(entry)
            wait = False

    def _next(self) -> list[_Entry]:
        """As many waiting queries as there is room for, without those of clients that left."""
        batch: list[_Entry] = []
        while self._waiting and len(batch) < self._pipeline.batch_size - len(self._running):
            entry = self._waiting.popleft()
            if entry.query.id not in self._left:
                batch.append(entry)
        return batch

    def _step(self, pipeline: StreamingPipeline) -> None:
        try:
            if new := self._next():
                self._running |= {a.query.id: a for a in new}
                self._began |= dict.fromkeys((a.query.id for a in new), time.perf_counter())
                pipeline.submit([a.sample for a in new], [a.query for a in new])
            events = self._check.events(pipeline.step(STEP_S)) if self._running else ()
        except Exception as error:  # the server continues
            for number in [*self._running]:
                self._deliver(number, BrokenError(describe(error)))
            return
        for event in events:
            if event.response is not None and event.query_id in self._began:
                took_s = time.perf_counter() - self._began[event.query_id]
                event = msgspec.structs.replace(event, response=self._check.response(event.response, took_s))
            self._deliver(event.query_id, event)

    def _answer_batch(self) -> None:
        if not (batch := self._next()):
            return
        self._running = {a.query.id: a for a in batch}
        began = time.perf_counter()
        try:
            returned = self._pipeline.generate([a.sample for a in batch], [a.query for a in batch])
            answers: list[Response | BrokenError] = [*self._check.batch(returned, len(batch), time.perf_counter() - began)]
        except Exception as error:  # the server continues
            answers = [BrokenError(describe(error))] * len(batch)
        for entry, answer in zip(batch, answers, strict=True):
            number = entry.query.id
            self._deliver(number, answer if isinstance(answer, BrokenError) else Event(number, response=answer))

    def _deliver(self, number: int, event: Event | BrokenError) -> None:
        """Deliver an event, unless its client left; a question that has ended is removed."""
        if number not in self._running:
            return
        entry = self._running[number]
        if isinstance(event, BrokenError) or event.response is not None:
            del self._running[number]
            self._began.pop(number, None)
            if number in self._left:
                self._left.discard(number)
                return
        if number not in self._left:
            entry.deliver(event)
