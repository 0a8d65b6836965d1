from __future__ import annotations

from collections.abc import Callable

import pytest

from metrics.base import Run
from metrics.loadgen_agreement import compare
from tests.conftest import record
from workloads.loadgen import read_summary

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


def test_a_summary_is_read_by_name(make_run: Callable[..., Run]) -> None:
    run = make_run(records=[record(0)])
    assert read_summary(run.folder) == {}
    (run.folder / "mlperf_log_summary.txt").write_text(SUMMARY.format(rate=1), encoding="utf-8")
    summary = read_summary(run.folder)
    assert summary["Result is"] == "VALID"
    assert summary["Min duration satisfied"] == "Yes"
