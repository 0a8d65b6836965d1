from __future__ import annotations

from collections.abc import Callable

from metrics.base import Run
from metrics.performance.speed import slowness
from tests.conftest import record


def test_the_interval_of_a_median_knows_nothing_of_the_longest_latency(make_run: Callable[..., Run]) -> None:
    latencies = [100.0 if i % 100 == 7 else 1.0 for i in range(400)]
    run = make_run(records=[record(i, completed_s=s) for i, s in enumerate(latencies)], scenario="single_stream")
    measured = slowness(run, "latency", 0.5)
    assert measured
    assert (measured.value, measured.ci95) == (1.0, (1.0, 1.0))
