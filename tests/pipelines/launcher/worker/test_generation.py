"""A batch that fails is failed queries where its rank works alone, and ends a replica of several. What cannot be used stops the warm-up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.errors import RunError
from pipelines.base import Event, Pipeline, Response, StreamingPipeline
from pipelines.distributed.replica import Replica
from pipelines.launcher.worker.clock_sync import ConductorClock
from pipelines.launcher.worker.generation import Generation, OutOfStepError
from workloads.records import Query, Sample
from workloads.run_folder.media import MediaWriter


@dataclass
class Failing(Pipeline):
    """num_answers: how many it gives to any batch; none: it raises."""

    num_answers: int | None = None

    def load(self, device: Any) -> None: ...

    def generate(self, samples: Sequence[Sample], queries: Sequence[Query]) -> list[Response]:
        if self.num_answers is None:
            raise FloatingPointError("it overflowed")
        return [Response(text="yes", num_units=1)] * self.num_answers


SAMPLES = [Sample(i, f"question {i}") for i in range(3)]
QUERIES = [Query(i, i, 1) for i in range(2)]


def _generation(pipeline: Pipeline, folder: Path) -> Generation:
    return Generation(0, pipeline, SAMPLES, "performance", MediaWriter(folder), ConductorClock())


def test_a_batch_that_raises_is_failed_queries(tmp_path: Path) -> None:
    results = _generation(Failing(), tmp_path).answer(QUERIES)
    assert [(r.query_id, r.status, "it overflowed" in str(r.error)) for r in results] == [(0, "failed", True), (1, "failed", True)]


@pytest.mark.parametrize(("num_answers", "status"), [(1, "failed"), (2, "done"), (3, "failed")])
def test_there_is_one_answer_a_query(tmp_path: Path, num_answers: int, status: str) -> None:
    assert [r.status for r in _generation(Failing(num_answers), tmp_path).answer(QUERIES)] == [status] * 2


class TwoRanks(Replica):
    """A replica whose second rank is not there to hear anything."""

    def tell(self, message: bytes) -> None: ...


def test_a_batch_that_raises_ends_a_replica_of_two_ranks(tmp_path: Path) -> None:
    pipeline = Failing()
    pipeline.replica = TwoRanks(ranks=(0, 1))
    with pytest.raises(OutOfStepError, match="it overflowed"):
        _generation(pipeline, tmp_path).answer(QUERIES)


VIDEO = np.zeros((9, 16, 16, 3), np.uint8)


@dataclass
class Returning(Pipeline):
    """Returns the same thing for every batch. num_frames: what is requested."""

    returned: Any = None
    num_frames: int | None = None
    batch_size: int = 2

    def load(self, device: Any) -> None: ...

    def generate(self, samples: Sequence[Sample], queries: Sequence[Query]) -> Any:
        return self.returned


@dataclass
class Streaming(StreamingPipeline):
    """Answers at once; `returned` is what `step` returns instead of its events."""

    returned: Any = "events"
    batch_size: int = 2

    def load(self, device: Any) -> None: ...

    def submit(self, samples: Sequence[Sample], queries: Sequence[Query]) -> None:
        self.queries = queries

    def step(self, timeout_s: float) -> Any:
        if self.returned != "events":
            return self.returned
        return [Event(q.id, 1, response=Response(text="yes", num_units=1, stages={"prefill": -2622.0})) for q in self.queries]


@pytest.mark.parametrize(
    ("pipeline", "problem"),
    [
        (Returning(None), "pipeline 'Returning': generate returned None; return a list with one Response for each query, in order"),
        (Returning([Response(video_THWC=VIDEO)]), "pipeline 'Returning': generate returned 1 answers to 2 queries"),
        (Returning([Response(video_THWC=VIDEO, num_units=9), Response(video_THWC=VIDEO, num_units=90)]), "num_units is 90, but its video"),
        (Returning([Response(video_THWC=VIDEO)] * 2, num_frames=17), "17 frames was requested, and the video has 9 frames of 16 x 16"),
        (Streaming(None), "pipeline 'Streaming': step returned None; return a list of Events"),
        (Streaming(), "pipeline 'Streaming': stage 'prefill' is -2622 s"),
    ],
)
def test_an_answer_that_cannot_be_used_stops_the_warm_up_in_one_sentence(tmp_path: Path, pipeline: Pipeline, problem: str) -> None:
    with pytest.raises(RunError) as stopped:
        _generation(pipeline, tmp_path).warm_up(1, 1)
    assert problem in str(stopped.value)


@pytest.mark.parametrize(("returned", "problem"), [(None, "step returned None"), ("events", "stage 'prefill' is -2622 s")])
def test_a_streams_answer_that_cannot_be_used_has_failed(tmp_path: Path, returned: Any, problem: str) -> None:
    engine, began = Streaming(returned), {q.id: 0.0 for q in QUERIES}
    generation = _generation(engine, tmp_path)
    assert generation.advance(engine, QUERIES, began) == ()
    events = generation.advance(engine, (), began)
    assert [e.response is not None and problem in str(e.response.error) for e in events] == [True, True]
    assert all(problem in str(response.error) for response in generation.replay(SAMPLES[:2], QUERIES)[0])


def test_answers_are_counted_by_what_their_counts_were_held_against(tmp_path: Path) -> None:
    generation = _generation(Returning([Response(text="yes", num_units=1), Response(text="no", token_ids=[3, 0])]), tmp_path)
    assert [r.num_units for r in generation.answer(QUERIES)] == [1, 2]
    assert generation.counted == {"nothing": 1, "token_ids": 1}
