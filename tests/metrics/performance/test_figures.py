"""Throughput, latency, stages and memory from records made by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from metrics.base import Run
from metrics.performance.latency import Latency, query_latencies
from metrics.performance.peak_memory import PeakMemory
from metrics.performance.stages import Stages
from metrics.performance.throughput import Throughput
from tests.conftest import record

MakeRun = Callable[..., Run]


def test_throughput_counts_answers_over_the_whole_span(make_run: MakeRun) -> None:
    # 3 of 4 answered, 9 frames each, last completion at 4 s
    records = [record(i, num_units=9) for i in range(3)] + [record(3, status="failed")]
    figures = Throughput().compute(make_run(records=records))
    assert figures["videos_per_s"].value == pytest.approx(3 / 4)
    assert figures["frames_per_s"].value == pytest.approx(27 / 4)
    assert figures["videos_per_s"].n == 4


def test_only_the_performance_test_is_timed(make_run: MakeRun) -> None:
    records = [record(0), record(1, mode="accuracy", completed_s=100.0)]
    assert Throughput().compute(make_run(records=records))["videos_per_s"].value == pytest.approx(1.0)


def test_latency_percentiles_and_their_bounds(make_run: MakeRun) -> None:
    records = [record(i, completed_s=float(i + 1)) for i in range(100)]
    figures = Latency().compute(make_run(records=records, scenario="single_stream"))
    assert figures["latency_mean"].value == pytest.approx(50.5)
    assert figures["latency_p50"].value == 51
    assert figures["latency_p90"].value == 91
    assert figures["latency_p90_bound"].value == 98  # third largest of 100
    assert figures["latency_p99"].value is None
    assert figures["latency_p99"].note == "n too small: p99 needs 662"


def test_a_failed_query_stays_in_the_latencies(make_run: MakeRun) -> None:
    run = make_run(records=[record(0), record(1, status="failed", completed_s=60.0)], scenario="server")
    assert query_latencies(run.timed, "server") == [1.0, 60.0]


def test_a_multi_stream_query_is_as_slow_as_its_slowest_sample() -> None:
    records = [record(0, group=0), record(1, group=0), record(2, group=1)]
    assert query_latencies(records, "multi_stream") == [2.0, 3.0]


def test_offline_latency_is_time_in_service(make_run: MakeRun) -> None:
    records = [record(0, started_s=0.5, completed_s=1.0), record(1, started_s=1.0, completed_s=2.0)]
    assert Latency().compute(make_run(records=records))["service_mean"].value == pytest.approx(0.75)


def test_stages_are_shared_among_a_batch(make_run: MakeRun) -> None:
    records = [record(i, batch_size=2, stages={"denoise": 4.0, "other": 1.0}, step_s=[1.0, 3.0]) for i in range(2)]
    figures = Stages().compute(make_run(records=records))
    assert figures["stage_denoise"].value == 2.0
    assert figures["stage_other"].value == 0.5
    assert figures["step_mean"].value == 2.0


def test_peak_memory_is_that_of_the_rank_that_uses_most(make_run: MakeRun) -> None:
    run = make_run(records=[record(0)])
    ranks = [{"memory": {"host": 100}}, {"memory": {"host": 300}}, {"memory": {}}]
    figures = PeakMemory().compute(Run(run.folder, run.config, run.workload, run.samples, run.records, {"performance": {"ranks": ranks}}))
    assert figures["peak_host_memory"].value == 300
    assert "peak_device_memory" not in figures
