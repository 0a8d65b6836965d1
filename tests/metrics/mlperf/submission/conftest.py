"""Runs that follow MLPerf's rules, made by hand, and a submission of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metrics.mlperf.submission.check import check
from metrics.mlperf.submission.check_result import Refusal
from metrics.mlperf.submission.system import HARDWARE, MEANINGFUL, SOFTWARE
from metrics.mlperf.submission.write import write_submission
from metrics.report.report import build_report
from pipelines.launcher.provenance import seal
from tests.conftest import record
from tests.metrics.conftest import write_run
from workloads.loadgen.load_test import LOADGEN_SCENARIOS
from workloads.mlperf.benchmarks import benchmark
from workloads.mlperf.rules import seeds
from workloads.records import Sample

NAME = "qwen3-vl-235b-a22b"
GOODS = json.dumps({"category": "Home > Kitchen"})
RESULTS = "closed/Example/results/8xMI355X/qwen3-vl-235b-a22b"
SYSTEM_FILE = "closed/Example/systems/8xMI355X.json"
SYSTEM = {
    "os": "Linux",
    "python": "3.11",
    "processor": "EPYC",
    "num_cpus": 128,
    "memory_bytes": 2**40,
    "rocm": "7.0",
    "cuda": None,
    "accelerators": [{"name": "MI355X", "memory_bytes": 288 * 2**30}] * 8,
    "packages": {"torch": "2.13.0"},
}
UNMEASURED = {field: "stated" for field in MEANINGFUL if field not in (*HARDWARE, *SOFTWARE, "division", "submitter")}


def detail(folder: Path, scenario: str, mode: str, **values: Any) -> None:
    """Write LoadGen's logs of a test that follows v6.1's rules, except for `values`."""
    rules, expected = benchmark(NAME, "v6.1").of(scenario), seeds("v6.1")
    log: dict[str, Any] = {
        "effective_scenario": LOADGEN_SCENARIOS[rules.scenario],
        "effective_test_mode": "PerformanceOnly" if mode == "performance" else "AccuracyOnly",
        "effective_qsl_rng_seed": expected.qsl,
        "effective_sample_index_rng_seed": expected.sample_index,
        "effective_schedule_rng_seed": expected.schedule,
        "qsl_reported_total_count": rules.num_samples,
        "effective_min_duration_ms": 600_000,
        "effective_min_sample_count": rules.num_samples,
        "effective_min_query_count": 100,
        "effective_sample_concatenate_permutation": True,
        "effective_target_latency_percentile": 0.99,
        "requested_use_token_latencies": False,
        "requested_server_target_latency_ns": 12_000_000_000,
        "result_validity": "VALID",
        "result_min_duration_met": True,
        "result_samples_per_second": 60.0,
        "result_completed_samples_per_sec": 50.0,
        "result_max_latency_ns": 601 * 10**9,
    } | {k: v for k, v in values.items() if k != "error"}
    entries = [{"key": k, "value": v, "metadata": {"is_error": False}} for k, v in log.items()]
    if "error" in values:
        entries.append({"key": "error_runtime", "value": values["error"], "metadata": {"is_error": True}})
    folder.mkdir(exist_ok=True)
    (folder / "mlperf_log_detail.txt").write_text("".join(f":::MLLOG {json.dumps(e)}\n" for e in entries), encoding="utf-8")
    (folder / "mlperf_log_summary.txt").write_text(f"Result is : {log['result_validity']}\n", encoding="utf-8")
    (folder / "mlperf_log_accuracy.json").write_text("[" + "7" * 30_000 + "]", encoding="utf-8")


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return make_runs(tmp_path)


def make_runs(tmp_path: Path) -> list[Path]:
    """Offline and Server runs of one benchmark in both modes; every answer is correct."""
    samples = [Sample(i, f"What is {i}?", {"answer": GOODS}) for i in range(4)]
    folders = []
    for scenario in ("offline", "server"):
        records = [record(i, mode=mode, text=GOODS, num_units=4) for mode in ("performance", "accuracy") for i in range(4)]
        config = {
            "workload": "vlm",
            "pipeline": {"name": "toy_vlm"},
            "metrics": ["hierarchical_f1"],
            "mode": "both",
            "benchmark": NAME,
            "rules": "mlperf-v6.1",
        }
        folder = write_run(tmp_path / scenario, samples, records, scenario=scenario, **config)
        outcome = json.loads((folder / "outcome.json").read_text(encoding="utf-8"))
        (folder / "outcome.json").write_text(json.dumps(outcome | {"accuracy": outcome["performance"]}), encoding="utf-8")
        (folder / "system.json").write_text(json.dumps(SYSTEM), encoding="utf-8")
        for mode in ("performance", "accuracy"):
            detail(folder / mode, scenario, mode)
        settle(folder)
        folders.append(folder)
    return folders


@pytest.fixture(autouse=True)
def all_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs made by hand lack what makes a run VALID; most of these tests are not about that."""
    monkeypatch.setattr("metrics.validity.verdict.reasons", lambda *_: [])


def settle(folder: Path) -> None:
    """Seal the run and write its report."""
    seal(folder)
    build_report(folder)


@pytest.fixture
def submit(runs: list[Path], tmp_path: Path) -> Callable[..., tuple[Path, list[Refusal]]]:
    """Write the submission of the runs and check it."""

    def made(given: list[Path] | None = None, division: str = "closed", **described: str) -> tuple[Path, list[Refusal]]:
        root = make_submission(given or runs, tmp_path, division, **described)
        return root, check(root)

    return made


def make_submission(runs: list[Path], tmp_path: Path, division: str = "closed", **described: str) -> Path:
    describe = tmp_path / "describe.json"
    describe.write_text(json.dumps(UNMEASURED | described), encoding="utf-8")
    return write_submission(runs, "Example", division, "v6.1", "8xMI355X", describe, tmp_path / "submission")


def reasons(refusals: list[Refusal], file: str) -> str:
    """The reasons of the refusals, which must all be about that file."""
    assert {r.file for r in refusals} == {file}
    return "; ".join(r.reason for r in refusals)
