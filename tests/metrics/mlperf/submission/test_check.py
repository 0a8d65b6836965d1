"""suite.py submit accepts a submission that follows every rule, and refuses each fault by file and reason."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metrics.mlperf.submission.check import check
from metrics.mlperf.submission.system import HARDWARE
from tests.metrics.mlperf.submission.conftest import (
    RESULTS,
    SYSTEM_FILE,
    detail,
    reasons,
    settle,
)


def test_a_submission_that_follows_all_rules_is_accepted(submit: Callable[..., Any]) -> None:
    root, refusals = submit()
    assert refusals == []
    result = root / RESULTS / "Offline"
    assert sorted(p.relative_to(result).as_posix() for p in result.rglob("*") if p.is_file()) == [
        "README.md",
        "accuracy/accuracy.txt",
        "accuracy/mlperf_log_accuracy.json",
        "accuracy/mlperf_log_detail.txt",
        "accuracy/mlperf_log_summary.txt",
        "measurements.json",
        "performance/run_1/mlperf_log_detail.txt",
        "performance/run_1/mlperf_log_summary.txt",
        "user.conf",
    ]
    assert (result / "accuracy/mlperf_log_accuracy.json").stat().st_size < 10 * 1024
    described = json.loads((root / SYSTEM_FILE).read_text(encoding="utf-8"))
    assert {field: described[field] for field in ("division", "submitter", "cooling")} == {
        "division": "closed",
        "submitter": "Example",
        "cooling": "stated",
    }
    assert [described[field] for field in (*HARDWARE, "framework")] == [
        *("1", "EPYC", "128 (as the operating system counts them)", "1024 GiB", "8", "MI355X", "288 GiB", "torch 2.13.0")
    ]


LOGS = [
    ({"result_validity": "INVALID", "result_invalid_reason": "too short"}, "result_validity is INVALID: too short"),
    ({"result_min_duration_met": False}, "the minimum duration was not met"),
    ({"result_max_latency_ns": 9 * 10**9}, "the run lasted 9.0 s; at least 600 s are required"),
    ({"effective_qsl_rng_seed": 1}, "effective_qsl_rng_seed is 1"),
    ({"effective_min_duration_ms": 10_000}, "effective_min_duration_ms is 10000"),
    ({"effective_min_sample_count": 100}, "effective_min_sample_count is 100"),
    ({"error": "a query was never answered"}, "LoadGen logged 1 errors"),
]


@pytest.mark.parametrize(("values", "reason"), LOGS)
def test_faults_in_loadgens_log_are_refused(values: dict[str, Any], reason: str, runs: list[Path], submit: Callable[..., Any]) -> None:
    detail(runs[0] / "performance", "offline", "performance", **values)
    settle(runs[0])
    _, refusals = submit()
    logs = f"{RESULTS}/Offline/performance/run_1/mlperf_log_"
    assert reason in reasons([r for r in refusals if not r.file.endswith("summary.txt")], f"{logs}detail.txt")
    summary = [r for r in refusals if r.file.endswith("summary.txt")]
    assert bool(summary) == ("result_validity" in values)


def test_an_accuracy_that_was_typed_in_is_refused(submit: Callable[..., Any]) -> None:
    root, _ = submit()
    file = root / RESULTS / "Offline/accuracy/accuracy.txt"
    file.write_text(file.read_text(encoding="utf-8").replace("1.000000", "0.800000"), encoding="utf-8")
    assert "F1_HIERARCHICAL is stated as 0.8, but the run's answers give 1" in reasons(
        check(root), f"{RESULTS}/Offline/accuracy/accuracy.txt"
    )


def test_an_accuracy_without_the_answers_is_refused(submit: Callable[..., Any], runs: list[Path]) -> None:
    root, _ = submit()
    shutil.rmtree(runs[1])
    by_file = {r.file.removeprefix(f"{RESULTS}/Server/"): r.reason for r in check(root)}
    assert set(by_file) == {"performance/run_1", "accuracy/accuracy.txt"}
    assert "cannot be computed again" in by_file["accuracy/accuracy.txt"]
    assert "cannot be compared with its run" in by_file["performance/run_1"]


def test_answers_that_were_modified_afterwards_do_not_count(submit: Callable[..., Any], runs: list[Path]) -> None:
    root, _ = submit()
    records = runs[1] / "records.jsonl"
    records.write_bytes(records.read_bytes().replace(b"Kitchen", b"Garden"))
    problems = reasons([r for r in check(root) if "accuracy.txt" in r.file], f"{RESULTS}/Server/accuracy/accuracy.txt")
    assert "the run's answers give 0.5" in problems
    assert any("records.jsonl: modified after the run" in r.reason for r in check(root))


def test_a_missed_gate_is_refused_in_the_closed_division_only(runs: list[Path], submit: Callable[..., Any], tmp_path: Path) -> None:
    records = runs[0] / "records.jsonl"
    records.write_bytes(records.read_bytes().replace(b"Kitchen", b"Garden"))
    settle(runs[0])
    _, refusals = submit()
    assert "F1_HIERARCHICAL is 0.5; at least 0.782397 is required" in reasons(refusals, f"{RESULTS}/Offline/accuracy/accuracy.txt")
    shutil.rmtree(tmp_path / "submission")
    assert submit(division="open")[1] == []


def test_a_log_that_was_edited_is_refused(submit: Callable[..., Any]) -> None:
    root, _ = submit()
    file = root / RESULTS / "Offline/performance/run_1/mlperf_log_detail.txt"
    file.write_text(file.read_text(encoding="utf-8").replace('"value": 60.0', '"value": 600.0'), encoding="utf-8")
    assert "differs from the run's own log" in reasons(check(root), f"{RESULTS}/Offline/performance/run_1/mlperf_log_detail.txt")


def test_a_run_that_is_invalid_is_refused(runs: list[Path], submit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metrics.validity.verdict.reasons", lambda run, *_: ["canary 'empty'"] if run.folder.name == "offline" else [])
    settle(runs[0])
    assert [r.reason for r in submit()[1]] == ["the run is INVALID: canary 'empty'"] * 2


def test_a_verdict_that_was_edited_in_the_report_is_refused(
    runs: list[Path], submit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No hash covers report.json: the verdict is worked out again."""
    monkeypatch.setattr("metrics.validity.verdict.reasons", lambda *_: ["canary 'empty'"])
    told = r'report.json does not match the run\'s records and media: verdict is "VALID" there and "INVALID" recomputed'
    assert [re.search(told, r.reason) is not None for r in submit(runs[:1])[1] if r.file.startswith(f"{RESULTS}/Offline/")] == [True] * 2


def test_a_required_scenario_that_is_missing_is_refused(runs: list[Path], submit: Callable[..., Any]) -> None:
    assert "v6.1 requires Server or Interactive; both are missing" in reasons(submit(runs[:1])[1], RESULTS)


def test_a_file_that_is_missing_is_named(submit: Callable[..., Any]) -> None:
    root, _ = submit()
    for name in ("user.conf", "accuracy/accuracy.txt", "performance/run_1/mlperf_log_summary.txt"):
        (root / RESULTS / "Server" / name).unlink()
    assert sorted(r.file.removeprefix(f"{RESULTS}/Server/") for r in check(root)) == [
        "accuracy/accuracy.txt",
        "performance/run_1/mlperf_log_summary.txt",
        "user.conf",
    ]
