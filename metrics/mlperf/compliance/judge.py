"""What a compliance test's run says, judged as the official verification scripts do, and in the files that they write.

Sources: mlcommons/inference, compliance/TEST01/verify_performance.py, TEST04/verify_performance.py, TEST06, TEST07 and
TEST09/run_verification.py. Stricter than they are: a query that failed fails the test, and TEST04 keeps to 10 % where the official
script, which compares queries a second with nanoseconds, lets streams pass with 20 %. Gentler, and only outside MLPerf's rules: a
machine that changed since the run is told from a cache by controls (metrics/mlperf/compliance/comply.py, pairs).
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from metrics.base import Run
from metrics.mlperf.compliance.outputs import judge_test06, judge_test07, judge_test09
from metrics.mlperf.compliance.performance import judge_test01, judge_test04
from metrics.mlperf.compliance.verdict import Verdict, read_seen

JUDGES = {"TEST01": judge_test01, "TEST04": judge_test04, "TEST06": judge_test06, "TEST07": judge_test07, "TEST09": judge_test09}


def judge(test: str, reference: Run, target: Path) -> Verdict:
    """Judge the run in target/runs/TESTxx and write target/TESTxx. For rank 0."""
    seen = read_seen(target / "runs" / test)
    own = target / test
    (own / "performance/run_1").mkdir(parents=True)
    (own / "accuracy").mkdir()
    for name in ("mlperf_log_summary.txt", "mlperf_log_detail.txt"):
        shutil.copyfile(seen.run.folder / "performance" / name, own / "performance/run_1" / name)
    if test == "TEST04":
        (own / "accuracy").rmdir()
    else:
        shutil.copyfile(seen.run.folder / "performance/mlperf_log_accuracy.json", own / "accuracy/mlperf_log_accuracy.json")
    verdict = JUDGES[test](reference, seen, own)
    num_failed = sum(r.status == "failed" for r in seen.run.records)
    if num_failed and verdict.result == "holds":
        first = next(r.error for r in seen.run.records if r.status == "failed")
        return replace(verdict, result="fails", told=f"{num_failed} of {len(seen.run.records)} queries failed, first: {first}")
    return verdict
