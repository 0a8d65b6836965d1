from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from configs.errors import ConfigError
from metrics.base import Run
from metrics.validity.loadgen_agreement import compare
from tests.conftest import record
from tests.metrics.conftest import TOKEN_LIMITS
from workloads.loadgen.load_test import read_summary

SUMMARY = """================================================
MLPerf Results Summary
================================================
SUT name : PySUT
Scenario : Offline
Mode     : PerformanceOnly
Samples per second: {rate}
Result is : VALID
  Min duration satisfied : Yes
  Min queries satisfied : Yes
Recommendations:
 * Increase the target QPS.
"""


@pytest.mark.parametrize(("rate", "agrees"), [(2.0, True), (2.015, True), (2.03, False)])
def test_figures_agree_within_one_per_cent(make_run: Callable[..., Run], rate: float, agrees: bool) -> None:
    run = make_run(records=[record(i, completed_s=(i + 1) / 2) for i in range(10)])
    (run.folder / "performance").mkdir()
    (run.folder / "performance/mlperf_log_summary.txt").write_text(SUMMARY.format(rate=rate), encoding="utf-8")
    (found,) = compare(run)
    assert (found.name, found.loadgen, found.own) == ("Samples per second", rate, 2.0)
    assert found.agrees is agrees


def test_loadgen_is_told_of_an_answer_when_its_tokens_are_known(make_run: Callable[..., Run]) -> None:
    late = [record(i, completed_s=(i + 1) / 2 - 0.4, stages={"after_answer": 0.4}) for i in range(10)]
    run = make_run(records=late)
    (run.folder / "performance").mkdir()
    (run.folder / "performance/mlperf_log_summary.txt").write_text(SUMMARY.format(rate=2.0), encoding="utf-8")
    assert compare(run)[0].agrees


@pytest.mark.parametrize("rate", ["x", "inf", "1e999", "nan"])
def test_a_figure_that_is_no_number_is_named(make_run: Callable[..., Run], rate: str) -> None:
    """Everything would agree with infinity."""
    run = make_run(records=[record(0)])
    (run.folder / "performance").mkdir()
    (run.folder / "performance/mlperf_log_summary.txt").write_text(SUMMARY.format(rate=rate), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"mlperf_log_summary\.txt, 'Samples per second', is damaged: "):
        compare(run)


def test_a_test_that_takes_no_time_is_damaged(make_run: Callable[..., Run]) -> None:
    run = make_run(records=[record(0, completed_s=0.0)])
    (run.folder / "performance").mkdir()
    (run.folder / "performance/mlperf_log_summary.txt").write_text(SUMMARY.format(rate=1.0), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"records\.jsonl is damaged: the queries of the timed test take no time"):
        compare(run)


def compared(run: Run, **lines: float) -> dict[str, Any]:
    """LoadGen's and our own figure, and whether they agree, by name; `lines` is LoadGen's summary, `_` for a space."""
    (run.folder / "performance").mkdir()
    text = "".join(f"{name.replace('_', ' ').replace(' ns', ' (ns)')} : {value}\n" for name, value in lines.items())
    (run.folder / "performance/mlperf_log_summary.txt").write_text(text, encoding="utf-8")
    return {c.name: (c.loadgen, c.own, c.agrees) for c in compare(run)}


@pytest.mark.parametrize("scenario", ["server", "interactive"])
def test_token_figures_of_random_arrivals(make_text_run: Callable[..., Run], scenario: str) -> None:
    # issued at 0, 1 ... 9 s, first token after 0.5 s, two seconds for the ten tokens after it
    records = [record(i, issued_s=float(i), first_token_s=i + 0.5, completed_s=i + 2.5, num_units=11) for i in range(10)]
    run = make_text_run(records, scenario=scenario, load={**TOKEN_LIMITS["load"], "interactive": {"target_ttft_s": 1.0}})
    found = compared(
        run,
        Completed_samples_per_second=9 / 11.5,
        Completed_tokens_per_second=110 / 11.5,
        Mean_latency_ns=2.5e9,
        Mean_First_Token_latency_ns=0.6e9,
        Mean_Time_per_Output_Token_ns=0.2e9,
    )
    assert found == {
        "Completed samples per second": (pytest.approx(9 / 11.5), pytest.approx(9 / 11.5), True),
        "Mean latency": (pytest.approx(2.5), pytest.approx(2.5), True),
        "Completed tokens per second": (pytest.approx(110 / 11.5), pytest.approx(110 / 11.5), True),
        "Mean First Token latency": (pytest.approx(0.6), pytest.approx(0.5), False),
        "Mean Time per Output Token": (pytest.approx(0.2), pytest.approx(0.2), True),
    }


def test_token_figures_of_one_query_at_a_time(make_text_run: Callable[..., Run]) -> None:
    records = [record(i, issued_s=float(i), first_token_s=i + 0.25, completed_s=i + 1.0, num_units=4) for i in range(10)]
    found = compared(
        make_text_run(records, scenario="single_stream"), Mean_Time_per_Output_Token_ns=0.26e9, Mean_First_Token_latency_ns=0.25e9
    )
    assert found["Mean First Token latency"][2]
    assert not found["Mean Time per Output Token"][2]  # by 0.01 s, where the clocks' slack is 0.005 / 3


def test_the_90th_percentile_is_compared_by_loadgens_name_for_it(make_run: Callable[..., Run]) -> None:
    records = [record(i, issued_s=float(i), completed_s=i + (i + 1) / 100) for i in range(100)]
    found = compared(make_run(records=records, scenario="single_stream"), **{"90.0th_percentile_latency_ns": 0.91e9})
    assert found["90.0th percentile latency"] == (pytest.approx(0.91), pytest.approx(0.91), True)


def test_offline_tokens_per_second(make_text_run: Callable[..., Run]) -> None:
    run = make_text_run([record(i, num_units=8) for i in range(10)])
    assert compared(run, Tokens_per_second=8.0) == {"Tokens per second": (8.0, pytest.approx(8.0), True)}


def test_answers_of_one_token_leave_nothing_to_compare(make_text_run: Callable[..., Run]) -> None:
    run = make_text_run([record(0, num_units=8), record(1, num_units=1)])
    assert compared(run, Tokens_per_second=4.0) == {}


def test_a_summary_is_read_by_name(make_run: Callable[..., Run]) -> None:
    run = make_run(records=[record(0)])
    assert read_summary(run.folder) == {}
    (run.folder / "mlperf_log_summary.txt").write_text(SUMMARY.format(rate=1), encoding="utf-8")
    summary = read_summary(run.folder)
    assert summary["Result is"] == "VALID"
    assert summary["Min duration satisfied"] == "Yes"
