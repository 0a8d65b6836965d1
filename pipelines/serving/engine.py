"""A pipeline that answers requests from whoever asks, at any time, on a thread of its own.

A streaming pipeline is given queries while others run, `batch_size` at most; a plain one is given a batch of all that waits.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from configs.errors import describe
from pipelines.base import Event, Pipeline, Response, StreamingPipeline
from workloads.records import Query, Sample

STEP_S = 0.005  # how long a streaming pipeline may keep us from looking for new requests


class BrokenError(Exception):
    """The pipeline raised: what it was at work on has no answer."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of the pipeline. seed: of its answer."""

    prompt: str
    seed: int
    images: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class _Asked:
    sample: Sample
    query: Query
    tell: Callable[[Event | BrokenError], None]


class Engine:
    """Takes questions on any thread; `tell` is called on the engine's own with every event, the last of which has a response."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._numbers = itertools.count()
        self._new: queue.SimpleQueue[_Asked | None] = queue.SimpleQueue()
        self._waiting: deque[_Asked] = deque()
        self._running: dict[int, _Asked] = {}
        self._left: set[int] = set()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def ask(self, question: Question, tell: Callable[[Event | BrokenError], None]) -> int:
        """Take a question into the queue; its number."""
        number = next(self._numbers)
        asked = _Asked(Sample(number, question.prompt, {}, question.images), Query(number, number, question.seed), tell)
        self._new.put(asked)
        return number

    def forget(self, number: int) -> None:
        """Who asked is gone: not begun, it never is; else it is answered to nobody, since pipelines break nothing off."""
        self._left.add(number)

    def close(self) -> None:
        """End after the batch or step at hand; what waits is told so."""
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
        for asked in [*self._running.values(), *self._waiting]:
            asked.tell(BrokenError("the server is being stopped"))

    def _take(self, wait: bool) -> None:
        """All that has arrived; `wait` for something."""
        while wait or not self._new.empty():
            if (asked := self._new.get()) is not None:
                self._waiting.append(asked)
            wait = False

    def _next(self) -> list[_Asked]:
        """As many as there is room for, less those who left."""
        found: list[_Asked] = []
        while self._waiting and len(found) < self._pipeline.batch_size - len(self._running):
            asked = self._waiting.popleft()
            if asked.query.id not in self._left:
                found.append(asked)
        return found

    def _step(self, pipeline: StreamingPipeline) -> None:
        try:
            if new := self._next():
                self._running |= {a.query.id: a for a in new}
                pipeline.submit([a.sample for a in new], [a.query for a in new])
            events = pipeline.step(STEP_S) if self._running else ()
        except Exception as error:  # the server goes on
            for number in [*self._running]:
                self._tell(number, BrokenError(describe(error)))
            return
        for event in events:
            self._tell(event.query_id, event)

    def _answer_batch(self) -> None:
        if not (batch := self._next()):
            return
        self._running = {a.query.id: a for a in batch}
        try:
            answers: list[Response | BrokenError] = list(self._pipeline.generate([a.sample for a in batch], [a.query for a in batch]))
        except Exception as error:  # the server goes on
            answers = [BrokenError(describe(error))] * len(batch)
        for asked, answer in zip(batch, answers, strict=True):
            number = asked.query.id
            self._tell(number, answer if isinstance(answer, BrokenError) else Event(number, response=answer))

    def _tell(self, number: int, event: Event | BrokenError) -> None:
        """Once it has ended, a question is not ours any more."""
        if number not in self._running:
            return
        asked = self._running[number]
        if isinstance(event, BrokenError) or event.response is not None:
            del self._running[number]
            if number in self._left:
                self._left.discard(number)
                return
        if number not in self._left:
            asked.tell(event)
