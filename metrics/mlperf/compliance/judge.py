"""Judges the run of a compliance test as the official verification scripts do, and writes the files that they write.

Sources: mlcommons/inference, compliance/TEST01/verify_performance.py, TEST04/verify_performance.py, TEST06, TEST07 and
TEST09/run_verification.py. Stricter than they are: a failed query fails the test, and TEST04 keeps to 10 % where the official script,
which compares queries a second with nanoseconds, lets streams pass with 20 %. More lenient, and only outside MLPerf's rules: control runs
distinguish a machine that became faster from a cache (metrics/mlperf/compliance/comply.py, controls).
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from metrics.base import Run
from metrics.mlperf.compliance.outputs import judge_test06, judge_test07, judge_test09
from metrics.mlperf.compliance.performance import judge_test01, judge_test04
from metrics.mlperf.compliance.verdict import Verdict, read_completed

JUDGES = {"TEST01": judge_test01, "TEST04": judge_test04, "TEST06": judge_test06, "TEST07": judge_test07, "TEST09": judge_test09}


def judge(test: str, reference: Run, target: Path) -> Verdict:
    """Judge the run in target/runs/TESTxx and write target/TESTxx. For rank 0."""
    completed = read_completed(target / "runs" / test)
    folder = target / test
    (folder / "performance/run_1").mkdir(parents=True)
    for name in ("mlperf_log_summary.txt", "mlperf_log_detail.txt"):
        shutil.copyfile(completed.run.folder / "performance" / name, folder / "performance/run_1" / name)
    if test != "TEST04":  # the official TEST04 has no accuracy folder
        (folder / "accuracy").mkdir()
        shutil.copyfile(completed.run.folder / "performance/mlperf_log_accuracy.json", folder / "accuracy/mlperf_log_accuracy.json")
    verdict = JUDGES[test](reference, completed, folder)
    num_failed = sum(r.status == "failed" for r in completed.run.records)
    if num_failed and verdict.result == "holds":
        first = next(r.error for r in completed.run.records if r.status == "failed")
        message = f"{num_failed} of {len(completed.run.records)} queries failed, first: {first}"
        return replace(verdict, result="fails", message=message)
    return verdict
