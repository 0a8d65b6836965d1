"""What a rank has its pipeline generate: warm-ups, batches, a stream's events, replays; and the result of each query.

Sends nothing: what ends the rank is raised as OutOfStepError, and the worker tells the conductor.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np

from configs.errors import RunError, describe
from pipelines.base import Event, Pipeline, Response, StreamingPipeline
from pipelines.launcher import messages
from pipelines.launcher.replay import digest_of
from pipelines.launcher.worker.clock_sync import ConductorClock
from pipelines.launcher.worker.memory import free_memory
from workloads.records import Query, Sample, query_seed
from workloads.run_folder.media import MediaWriter

STEP_S = 0.005  # how long a streaming engine may keep us from looking for new queries
WARM_UP_S, MAX_WARMUPS = 0.5, 50  # a warm-up lasts this long, but for no more batches than that
KEPT_TEXTS = 8  # of a warm-up, to compare with the timed ones; of videos one, which may be large


class OutOfStepError(Exception):
    """A batch that failed on one rank of a replica leaves the others in the middle of it, for good."""


class Generation:
    """One rank's, in one LoadGen test. warm: answers of its warm-up, from before the clock started."""

    def __init__(
        self, rank: int, pipeline: Pipeline, samples: Sequence[Sample], mode: str, writer: MediaWriter, clock: ConductorClock
    ) -> None:
        self._rank, self._pipeline, self._samples, self._mode = rank, pipeline, samples, mode
        self._writer, self._clock = writer, clock
        self.warm: list[tuple[Query, Response]] = []

    def warm_up(self, num_warmups: int, seed: int) -> float:
        """Full batches outside the clock; seconds a sample in the fastest of the later half.

        A quick pipeline gets more than `num_warmups`: the rate that LoadGen expects rests on them.
        """
        size = self._pipeline.batch_size
        samples = [self._samples[i % len(self._samples)] for i in range(size)]
        queries = [Query(i, s.index, query_seed(seed, s.index)) for i, s in enumerate(samples)]
        spent: list[float] = []
        while len(spent) < num_warmups or (sum(spent) * size < WARM_UP_S and len(spent) < MAX_WARMUPS):
            started = time.perf_counter()
            responses = self._generate(samples, queries)
            spent.append((time.perf_counter() - started) / size)
            if all(r.error for r in responses):  # one bad prompt alone is for the run to count
                raise RunError(f"warm-up failed: {responses[0].error}")
        turned = [*zip(queries, responses, strict=True)]  # each rank keeps others, so that more of them are compared
        turned = [pair for pair in turned[self._rank % size :] + turned[: self._rank % size] if pair[1].error is None]
        self.warm = turned[: 1 if turned[0][1].video_THWC is not None else KEPT_TEXTS]
        return min(spent[len(spent) // 2 :])

    def answer(self, queries: Sequence[Query]) -> list[messages.Result]:
        """One timed batch."""
        began = time.perf_counter()
        try:
            responses = self._generate_each([self._samples[q.sample_index] for q in queries], queries)
        except Exception as error:  # the run goes on; what failed stays in every denominator
            responses = [self._failure(error)] * len(queries)
        return [self.result(q, r, began) for q, r in zip(queries, responses, strict=True)]

    def advance(self, engine: StreamingPipeline, new: Sequence[Query], running: Mapping[int, Query]) -> Sequence[Event]:
        """Hand over new queries or, where there are none, take a step; where it raises, every running query has failed."""
        try:
            if not new:
                return engine.step(STEP_S)
            engine.submit([self._samples[q.sample_index] for q in new], new)
            return ()
        except Exception as error:  # the run goes on; what failed stays in every denominator
            failure = self._failure(error)
            return [Event(query_id, response=failure) for query_id in running]

    def replay(self, samples: Sequence[Sample], queries: Sequence[Query]) -> tuple[Sequence[Response], int | None]:
        """Answers outside the clock; with the first token's id of the one that came last, as it was announced."""
        try:
            if not isinstance(self._pipeline, StreamingPipeline):
                return self._generate_each(samples, queries), None
            self._pipeline.submit(samples, queries)
            announced, answered = dict[int, int](), dict[int, Response]()
            while not all(q.id in answered for q in queries):
                for event in self._pipeline.step(1.0):
                    if event.first_token_id is not None:
                        announced[event.query_id] = event.first_token_id
                    if event.response is not None:
                        answered[event.query_id] = event.response
            return [answered[q.id] for q in queries], announced.get(queries[-1].id)
        except Exception as error:
            return [self._failure(error)] * len(queries), None

    def keep(self, media: str, response: Response) -> None:
        """Write a video, and wait until it is on disk."""
        assert response.video_THWC is not None
        self._writer.put(media, response.video_THWC, response.fps)
        self._writer.drain()

    def result(self, query: Query, response: Response, began: float) -> messages.Result:
        """began: when the pipeline was handed the query, on this process's clock."""
        from_s, to_s = self._clock.of(began), self._clock.of(time.perf_counter())
        if response.error is not None:
            return messages.Result(query.id, "failed", error=response.error)
        media = None
        digest = digest_of(response)  # before the file is begun
        if response.video_THWC is not None:
            media = f"media/{self._mode}-{query.id:06d}.mkv"
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

    def _generate_each(self, samples: Sequence[Sample], queries: Sequence[Query]) -> list[Response]:
        responses = list(self._generate(samples, queries))
        if len(responses) != len(queries):
            raise RuntimeError(f"pipeline gave {len(responses)} answers to {len(queries)} queries")
        return responses

    def _generate(self, samples: Sequence[Sample], queries: Sequence[Query]) -> Sequence[Response]:
        if not isinstance(self._pipeline, StreamingPipeline):  # whose engine tells its followers itself
            self._pipeline.replica.tell(messages.encode(messages.Work(list(queries))))
        return self._pipeline.generate(samples, queries)

    def _failure(self, error: Exception) -> Response:
        """The response of a batch that raised. Raises OutOfStepError where other ranks work on the same batch."""
        if (replica := self._pipeline.replica).size > 1:
            raise OutOfStepError(f"{describe(error)} (in {replica.name})") from error
        response = Response(error=describe(error))
        free_memory(error)
        return response
