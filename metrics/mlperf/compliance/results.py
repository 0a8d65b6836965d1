"""comply.json: the verdicts on a run's compliance tests. Written, read and printed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict

from configs.decode import read_json
from configs.errors import ConfigError
from configs.output import open_console
from metrics.base import Run
from metrics.mlperf.compliance.verdict import Verdict
from workloads.mlperf.notices import UNVERIFIED

SHOWN = {"not held": "not run", "NONE ASKED": "NOT REQUIRED"}  # fixed values of comply.json, as they are printed


class Compliance(NamedTuple):
    """verdict: PASS; FAIL, one does not hold; INCOMPLETE, none fails and one was not run; NONE ASKED, MLPerf requires none."""

    folder: Path
    verdict: str
    verdicts: list[Verdict]
    benchmark: str | None = None


class TestResult(TypedDict):
    """A Verdict, under its test."""

    result: Literal["holds", "fails", "not held"]
    told: str
    basis: str
    figures: dict[str, float]


class Verdicts(TypedDict):
    """comply.json, as far as it is read. log: the hash of the run's log."""

    log: str
    tests: dict[str, TestResult]


def folder_beside(run: Path) -> Path:
    """The default folder for a run's tests, where `submit` looks for them too."""
    return run.resolve().with_name(f"{run.resolve().name}-compliance")


def read_verdicts(target: Path) -> Verdicts:
    """Read comply.json. Raises ConfigError if there is none, or it is damaged."""
    try:
        return read_json(target / "comply.json", Verdicts)
    except ConfigError as error:
        raise ConfigError(
            f"{str(target)!r} holds no compliance tests that can be read ({error}). Remove it, and run suite.py comply."
        ) from None


def performance_log_hash(run: Path) -> str:
    """The hash of LoadGen's log of the performance test. It distinguishes a run from others of the same name."""
    file = run / "performance/mlperf_log_detail.txt"
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror}): the run folder is incomplete.") from None


def read_earlier(run: Run, target: Path) -> dict[str, Verdict]:
    """Read the verdicts of this run's tests that are in the folder already. Raises ConfigError if they are another run's."""
    if not (target / "comply.json").exists():
        return {}
    content = read_verdicts(target)
    if content["log"] != performance_log_hash(run.folder):
        raise ConfigError(f"{str(target)!r} holds the tests of another run. Remove it, or choose another folder with --output.")
    return {name: Verdict(name, v["result"], v["told"], v["basis"], v["figures"]) for name, v in content["tests"].items()}


def as_json(compliance: Compliance, run: Run) -> dict[str, Any]:
    tests = {v.test: {"result": v.result, "told": v.message, "basis": v.basis, "figures": dict(v.figures)} for v in compliance.verdicts}
    return {
        "run": run.folder.resolve().name,
        "log": performance_log_hash(run.folder),
        "benchmark": run.config.benchmark,
        "rules": run.config.rules,
        "verdict": compliance.verdict,
        "tests": tests,
        "note": UNVERIFIED,
    }


def print_table(compliance: Compliance) -> None:
    """Print the verdicts to stderr."""
    from rich.table import Table

    console = open_console()
    if compliance.verdict == "NONE ASKED":
        text = f"{SHOWN[compliance.verdict]}  MLPerf requires no compliance test of {compliance.benchmark}; nothing was run"
        console.print(text, soft_wrap=True)
        return
    console.print(f"{compliance.verdict}  MLPerf's compliance tests. {UNVERIFIED}")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("test", "result", "measured", "threshold"):
        table.add_column(column, overflow="fold")
    for v in compliance.verdicts:
        table.add_row(v.test, SHOWN.get(v.result, v.result), v.message, v.basis)
    console.print(table)
    console.print(f"files: {compliance.folder}")


def line(compliance: Compliance) -> Mapping[str, Any]:
    """The last line on stdout."""
    return {
        "comply": str(compliance.folder) if compliance.verdicts else None,
        "verdict": compliance.verdict,
        "tests": {v.test: v.result for v in compliance.verdicts},
    }
