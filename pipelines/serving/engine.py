"""A pipeline on a thread of its own that answers requests at any time.

A streaming pipeline gets queries while others run, at most `batch_size`; a plain one gets batches of the queries that wait. A query whose
client is gone is cancelled where the pipeline can do that. What a pipeline returns passes ResponseCheck; what cannot be used is
an error response.
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
from pipelines.base import NO_OPTIONS, Event, Pipeline, QueryOptions, Response, ServedQuery, StreamingPipeline
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
    options: QueryOptions = NO_OPTIONS


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
        self._new: queue.SimpleQueue[_Entry | int | None] = queue.SimpleQueue()
        self._waiting: deque[_Entry] = deque()
        self._running: dict[int, _Entry] = {}
        self._began: dict[int, float] = {}  # when the pipeline was handed each running query
        self._left: set[int] = set()  # running queries that could not be cancelled
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def ask(self, question: Question, deliver: Callable[[Event | BrokenError], None]) -> int:
        """Put a question into the queue. Returns its number."""
        number = next(self._numbers)
        query = ServedQuery(number, number, question.seed, question.options)
        entry = _Entry(Sample(number, question.prompt, WITHHELD, question.images), query, deliver)
        self._new.put(entry)
        return number

    def forget(self, number: int) -> None:
        """The client is gone: nothing more is delivered. The query is cancelled, or runs to its end where the pipeline cannot cancel."""
        self._new.put(number)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting) + self._new.qsize()

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
            wait = False
            new = self._new.get()
            if isinstance(new, _Entry):
                self._waiting.append(new)
            elif new is not None:
                self._cancel(new)

    def _cancel(self, number: int) -> None:
        self._waiting = deque(entry for entry in self._waiting if entry.query.id != number)
        if number not in self._running:
            return
        if isinstance(self._pipeline, StreamingPipeline) and self._pipeline.cancel(number):
            self._end(number)
        else:
            self._left.add(number)

    def _end(self, number: int) -> None:
        del self._running[number]
        self._began.pop(number, None)
        self._left.discard(number)

    def _next(self) -> list[_Entry]:
        """As many waiting queries as there is room for."""
        room = min(len(self._waiting), self._pipeline.batch_size - len(self._running))
        return [self._waiting.popleft() for _ in range(room)]

    def _submit(self, pipeline: StreamingPipeline, entry: _Entry) -> None:
        number = entry.query.id
        self._running[number], self._began[number] = entry, time.perf_counter()
        try:
            pipeline.submit([entry.sample], [entry.query])
        except Exception as error:  # the others go on; an engine that is broken says so in `step` too
            self._deliver(number, BrokenError(describe(error)))

    def _step(self, pipeline: StreamingPipeline) -> None:
        for entry in self._next():
            self._submit(pipeline, entry)
        try:
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
        if (entry := self._running.get(number)) is None:
            return
        wanted = number not in self._left
        if isinstance(event, BrokenError) or event.response is not None:
            self._end(number)
        if wanted:
            entry.deliver(event)
