"""Throughput, latency, stages and memory from records made by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from metrics.base import Run
from metrics.performance.latency import Latency, query_latencies
from metrics.performance.peak_memory import PeakMemory
from metrics.performance.speed import speed_remark, throughput
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


def test_an_accuracy_test_has_no_figure_of_speed(make_run: MakeRun) -> None:
    run = make_run(records=[record(i, mode="accuracy", started_s=float(i), stages={"denoise": 1.0}) for i in range(8)], mode="accuracy")
    for metric in (Throughput(), Latency(), Stages()):
        assert metric.compute(run) == {}
    assert throughput(run) is None
    assert speed_remark(run) == "no speed: an accuracy test is not timed"


def test_a_throughput_has_the_interval_that_compare_has(make_run: MakeRun) -> None:
    seconds = [1.0, 1.1, 0.9, 1.0, 1.2, 0.9, 1.0, 1.1, 0.9, 1.0] * 4
    ends = np.cumsum(seconds)
    records = [
        record(i, started_s=float(e - s), completed_s=float(e), num_units=9) for i, (s, e) in enumerate(zip(seconds, ends, strict=True))
    ]
    run = make_run(records=records)
    figures, speed = Throughput().compute(run), throughput(run)
    assert speed is not None
    assert speed.ci95 is not None
    assert figures["videos_per_s"].ci95 == speed.ci95
    assert speed.ci95[0] < speed.value < speed.ci95[1] < 1.1 * speed.value
    assert figures["frames_per_s"].ci95 == pytest.approx([9 * end for end in speed.ci95])
    assert (figures["videos_per_s"].note, speed_remark(run)) == ("", "")


def test_a_run_whose_speed_was_unsteady_says_so(make_run: MakeRun) -> None:
    """A second a video in the first half of the time, four in the second."""
    seconds = [1.0] * 40 + [4.0] * 10
    ends = np.cumsum(seconds)
    records = [
        record(i, started_s=float(e - s), completed_s=float(e), num_units=9) for i, (s, e) in enumerate(zip(seconds, ends, strict=True))
    ]
    run = make_run(records=records)
    figure = Throughput().compute(run)["videos_per_s"]
    sentence = "unsteady: 0.25 to 1 videos/s in 10 equal parts of the test's time, 0.625 over all of it"
    assert (figure.note, speed_remark(run)) == (sentence, sentence)
    assert speed_remark(make_run(records=records, scenario="server")) == ""


def test_a_run_that_is_too_short_for_an_interval_says_so(make_run: MakeRun) -> None:
    run = make_run(records=[record(i, started_s=float(i)) for i in range(4)])
    figure = Throughput().compute(run)["videos_per_s"]
    assert (figure.value, figure.ci95, figure.note) == (1.0, None, "the run is too short for an interval")


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
