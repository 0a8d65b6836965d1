"""A finished run of three texts."""

from __future__ import annotations

from pathlib import Path

import pytest

from metrics.report.report import build_report
from tests.conftest import record
from tests.metrics.conftest import write_run
from workloads.records import Record, Sample


def answered(count: int) -> list[Record]:
    return [record(i, text=f"answer {i}", num_units=3, started_s=float(i)) for i in range(count)]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of three texts, with its report."""
    folder = write_run(tmp_path / "run", [Sample(i, f"question {i}", {"answer": f"answer {i}"}) for i in range(3)], answered(3))
    build_report(folder)
    return folder
