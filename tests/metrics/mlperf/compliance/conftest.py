"""Runs and LoadGen logs made by hand, for tests of compliance tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metrics.base import Run
from metrics.mlperf.compliance.judge import judge
from metrics.mlperf.compliance.verdict import Verdict
from metrics.report.load_run import load_run
from pipelines.launcher.provenance import seal
from tests.conftest import record
from tests.metrics.conftest import write_run
from workloads.records import Record, Sample

SAMPLES = [Sample(i, f"prompt {i}", {"answer": "yes"}) for i in range(10)]
END = 0


def answer(query_id: int, **fields: Any) -> Record:
    """A Record of ten tokens and the text `yes`."""
    values = {"text": "yes", "digest": "ab" * 8, "num_units": 10, "finish_reason": "stop", "sample_index": query_id % 10}
    return record(query_id, **values | fields)


def logs(folder: Path, answers: Sequence[dict[str, Any]] = (), **values: Any) -> None:
    """LoadGen's detail log and accuracy log of a performance test."""
    values = {"effective_scenario": "Offline", "result_validity": "VALID", "result_samples_per_second": 100.0} | values
    entries = [{"key": k, "value": v, "metadata": {"is_error": False}} for k, v in values.items()]
    (folder / "performance/mlperf_log_detail.txt").write_text("".join(f":::MLLOG {json.dumps(e)}\n" for e in entries), encoding="utf-8")
    (folder / "performance/mlperf_log_accuracy.json").write_text(json.dumps(list(answers)), encoding="utf-8")


def logged(query_id: int, tokens: Sequence[int] = (5, 6, 7, 8, 9, 5, 6, 7, 8, END), **fields: Any) -> dict[str, Any]:
    data = np.asarray(tokens, dtype="<i4").tobytes().hex().upper()
    return {"seq_id": query_id, "qsl_idx": query_id % 10, "data": data, "token_count": len(tokens)} | fields


@pytest.fixture
def reference(tmp_path: Path) -> Run:
    """A run in both modes: 100 samples a second, all answers correct, ten tokens each."""
    timed = [answer(i) for i in range(10)]
    folder = write_run(
        tmp_path / "run", SAMPLES, [*timed, *(answer(i, mode="accuracy") for i in range(10))], mode="both", metrics=["exact_match"]
    )
    logs(folder)
    return load_run(folder)


def judge_run(
    reference: Run, test: str, records: Sequence[Record], answers: Sequence[dict[str, Any]] = (), **values: Any
) -> tuple[Verdict, Path]:
    """The verdict on a test's run with these records and logs, and the folder with the official files."""
    target = reference.folder.with_name("run-compliance")
    logs(write_run(target / "runs" / test, SAMPLES, records, metrics=["exact_match"]), answers, **values)
    return judge(test, reference, target), target / test


def repeated(count: int = 20) -> list[Record]:
    return [answer(i, sample_index=3) for i in range(count)]


@pytest.fixture
def timed(tmp_path: Path) -> Path:
    """An unmodified run without an accuracy test: TEST01 cannot be run on it."""
    folder = write_run(tmp_path / "timed", SAMPLES, [answer(i) for i in range(10)])
    logs(folder)
    seal(folder)
    return folder
