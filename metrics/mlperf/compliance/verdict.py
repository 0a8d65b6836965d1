"""The verdict on a compliance test, and the run folder of the test that it is based on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from metrics.base import Run
from metrics.report.load_run import load_run
from workloads.loadgen.logs import LoadGenLog, Logged, read_answers, read_detail
from workloads.records import Record


@dataclass(frozen=True)
class Verdict:
    """message: what was measured, or why the test was not run. basis: the threshold and its source. figures: measured, by name."""

    test: str
    result: Literal["holds", "fails", "not held"]  # "not held": the test was not run
    message: str
    basis: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)


class CompletedTest(NamedTuple):
    """A test's run, LoadGen's detail log, and the answers that LoadGen logged, each with the Record of its query, if there is one."""

    run: Run
    log: LoadGenLog
    answers: list[tuple[Logged, Record | None]]


def not_run(test: str, reason: str) -> Verdict:
    return Verdict(test, "not held", reason)


def read_completed(folder: Path) -> CompletedTest:
    """Read the run folder of a compliance test."""
    run = load_run(folder)
    by_query = {(r.query_id, r.sample_index): r for r in run.records}
    answers = [(a, by_query.get((a.seq_id, a.qsl_idx))) for a in read_answers(folder / "performance/mlperf_log_accuracy.json")]
    return CompletedTest(run, read_detail(folder / "performance/mlperf_log_detail.txt"), answers)


def pass_line(passed: bool) -> str:
    """The line of the official scripts that the submission checker looks for."""
    return "TEST PASS" if passed else "TEST FAIL"
