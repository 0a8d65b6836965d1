"""What a rank has its pipeline generate: warm-ups, batches, a stream's events, replays; and the result of each query.

Sends nothing: what ends the rank is raised as OutOfStepError, and the worker tells the conductor. What the pipeline returns passes
ResponseCheck before anything else is done with it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from configs.errors import RunError, describe
from pipelines.base import Event, Pipeline, Response, StreamingPipeline
from pipelines.launcher import messages
from pipelines.launcher.replay import digest_of
from pipelines.launcher.worker.clock_sync import ConductorClock
from pipelines.launcher.worker.memory import free_memory
from pipelines.launcher.worker.replayer import FirstToken
from pipelines.models.response_check import ResponseCheck
from workloads.records import Query, Sample, query_seed
from workloads.run_folder.media import MediaWriter

STEP_S = 0.005  # how long a streaming engine may keep us from looking for new queries
WARM_UP_S, MAX_WARMUPS = 0.5, 50  # a warm-up lasts this long, but for no more batches than that
KEPT_TEXTS = 8  # of a warm-up, to compare with the timed ones; of videos one, which may be large


class OutOfStepError(Exception):
    """A batch that failed on one rank of a replica leaves the others in the middle of it, for good."""


class Generation:
    """One rank's, in one LoadGen test.

    may_differ: as in ResponseCheck. warm: answers of its warm-up, from before the clock started. counted: answers of the test by what
    their counts were held against, as in ResponseCheck.counted_by.
    """

    def __init__(
        self,
        rank: int,
        pipeline: Pipeline,
        samples: Sequence[Sample],
        mode: str,
        writer: MediaWriter,
        clock: ConductorClock,
        may_differ: Sequence[str] = (),
    ) -> None:
        self._rank, self._pipeline, self._samples, self._mode = rank, pipeline, samples, mode
        self._writer, self._clock = writer, clock
        self._check = ResponseCheck(pipeline, may_differ)
        self.warm: list[tuple[Query, Response]] = []
        self.counted: Counter[str] = Counter()

    def warm_up(self, num_warmups: int, seed: int) -> float:
        """Full batches outside the clock; seconds a sample in the fastest of the later half.

        A quick pipeline gets more than `num_warmups`: the rate that LoadGen expects rests on them.
        Raises RunError where no query is answered, or an answer cannot be used or is not as large as requested.
        """
        size = self._pipeline.batch_size
        samples = [self._samples[i % len(self._samples)] for i in range(size)]
        queries = [Query(i, s.index, query_seed(seed, s.index)) for i, s in enumerate(samples)]
        spent: list[float] = []
        while len(spent) < num_warmups or (sum(spent) * size < WARM_UP_S and len(spent) < MAX_WARMUPS):
            started = time.perf_counter()
            responses = self._generate(samples, queries)
            spent.append((time.perf_counter() - started) / size)
            if problem := self._check.first_problem or self._check.size_problem(responses):
                raise RunError(f"warm-up failed: {problem}")
            if all(r.error is not None for r in responses):  # one bad prompt alone is for the run to count
                raise RunError(f"warm-up failed: {responses[0].error}")
        turned = [*zip(queries, responses, strict=True)]  # each rank keeps others, so that more of them are compared
        turned = [pair for pair in turned[self._rank % size :] + turned[: self._rank % size] if pair[1].error is None]
        self.warm = turned[: 1 if turned[0][1].video_THWC is not None else KEPT_TEXTS]
        return min(spent[len(spent) // 2 :])

    def answer(self, queries: Sequence[Query]) -> list[messages.Result]:
        """One timed batch."""
        began = time.perf_counter()
        try:
            responses = self._generate([self._samples[q.sample_index] for q in queries], queries)
        except Exception as error:  # the run goes on; what failed stays in every denominator
            responses = [self._failure(error)] * len(queries)
        return self.results([(q, r, began) for q, r in zip(queries, responses, strict=True)])

    def advance(self, engine: StreamingPipeline, new: Sequence[Query], began: Mapping[int, float]) -> Sequence[Event]:
        """Hand over new queries or, where there are none, take a step; where it raises, every running query has failed.

        began: when each running query was handed over, on this process's clock.
        """
        try:
            if not new:
                return [self._checked(event, began) for event in self._check.events(engine.step(STEP_S))]
            engine.submit([self._samples[q.sample_index] for q in new], new)
            return ()
        except Exception as error:  # the run goes on; what failed stays in every denominator
            failure = self._failure(error)
            return [Event(query_id, response=failure) for query_id in began]

    def replay(self, samples: Sequence[Sample], queries: Sequence[Query]) -> tuple[Sequence[Response], dict[int, FirstToken]]:
        """Answers outside the clock; with the first tokens by query, as they were announced."""
        try:
            if isinstance(self._pipeline, StreamingPipeline):
                return self._stream(self._pipeline, samples, queries)
            return self._generate(samples, queries), {}
        except Exception as error:
            return [self._failure(error)] * len(queries), {}

    def keep(self, media: str, response: Response) -> None:
        """Write a video, and wait until it is on disk."""
        assert response.video_THWC is not None
        self._writer.put(media, response.video_THWC, response.fps)
        self._writer.drain()

    def results(self, answered: Sequence[tuple[Query, Response, float]]) -> list[messages.Result]:
        """Each query with its response, and when the pipeline was handed it, on this process's clock."""
        now = time.perf_counter()
        return [self._result(query, response, began, now) for query, response, began in answered]

    def _result(self, query: Query, response: Response, began: float, now: float) -> messages.Result:
        from_s, to_s = self._clock.of(began), self._clock.of(now)
        if response.error is not None:
            return messages.Result(query.id, "failed", error=response.error)
        self.counted[self._check.counted_by(response)] += 1
        media = None
        digest = digest_of(response)  # before the file is begun
        if response.video_THWC is not None:
            media = f"media/{self._mode}-{query.id:06d}.mkv"
            self._writer.put(media, response.video_THWC, response.fps)
        return messages.Result(  # by position, as names take five times as long
            query.id,
            "done",
            dict(response.stages),
            list(response.step_s),
            response.num_units,
            response.num_input_tokens,
            response.first_token_id,
            response.finish_reason,
            list(response.token_gap_s),
            digest,
            media,
            response.text,
            response.finite,
            None,
            None if from_s is None or to_s is None else (from_s, to_s),
            np.asarray(response.token_ids, dtype="<i4").tobytes() if len(response.token_ids) else b"",
            response.client_lag_s,
        )

    def _generate(self, samples: Sequence[Sample], queries: Sequence[Query]) -> list[Response]:
        """One batch, checked."""
        if isinstance(self._pipeline, StreamingPipeline):  # whose engine tells its followers itself
            return self._stream(self._pipeline, samples, queries)[0]
        self._pipeline.replica.tell(messages.encode(messages.Work(list(queries))))
        began = time.perf_counter()
        returned = self._pipeline.generate(samples, queries)
        return self._check.batch(returned, len(queries), time.perf_counter() - began)

    def _stream(
        self, engine: StreamingPipeline, samples: Sequence[Sample], queries: Sequence[Query]
    ) -> tuple[list[Response], dict[int, FirstToken]]:
        """One batch of an engine, checked, until its last answer; with the first tokens by query, as they were announced."""
        began = dict.fromkeys((q.id for q in queries), time.perf_counter())
        engine.submit(samples, queries)
        firsts, answered = dict[int, FirstToken](), dict[int, Response]()
        while not all(q.id in answered for q in queries):
            for event in self._check.events(engine.step(1.0)):
                if event.first_token_id is not None:
                    firsts.setdefault(event.query_id, FirstToken(event.first_token_id, time.perf_counter()))
                if (response := self._checked(event, began).response) is not None:
                    answered[event.query_id] = response
        return [answered[q.id] for q in queries], firsts

    def _checked(self, event: Event, began: Mapping[int, float]) -> Event:
        if event.response is None or event.query_id not in began:
            return event
        response = self._check.response(event.response, time.perf_counter() - began[event.query_id])
        return event if response is event.response else msgspec.structs.replace(event, response=response)

    def _failure(self, error: Exception) -> Response:
        """The response of a batch that raised. Raises OutOfStepError where other ranks work on the same batch."""
        why = describe(error)
        if (replica := self._pipeline.replica).size > 1:
            raise OutOfStepError(f"{why} (in {replica.name})") from error
        response = Response(error=why)
        free_memory(error)
        return response
