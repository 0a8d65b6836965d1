"""A batch that fails is failed queries where its rank works alone, and ends a replica of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipelines.base import Pipeline, Response
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
