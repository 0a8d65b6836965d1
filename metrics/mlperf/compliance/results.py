"""comply.json: the verdicts on a run's compliance tests, written, read again and printed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from configs.errors import ConfigError
from metrics.base import Run
from metrics.mlperf.compliance.verdict import Verdict
from workloads.mlperf.notices import UNVERIFIED


class Compliance(NamedTuple):
    """verdict: PASS; FAIL, one does not hold; INCOMPLETE, none fails and one could not be held; NONE ASKED, MLPerf asks no test of it."""

    folder: Path
    verdict: str
    verdicts: list[Verdict]
    benchmark: str | None = None


def folder_beside(run: Path) -> Path:
    """Where a run's tests go, and where `submit` looks for them, if nothing else is said."""
    return run.resolve().with_name(f"{run.resolve().name}-compliance")


def read_verdicts(target: Path) -> dict[str, Any]:
    """comply.json. Raises ConfigError where there is none, or it is damaged."""
    file = target / "comply.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or not isinstance(found["tests"], dict) or not isinstance(found["log"], str):
            raise ValueError("it is of another version")
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"{str(target)!r} holds no compliance tests that can be read ({error}): remove it, and run suite.py comply"
        ) from None
    return found


def performance_log_hash(run: Path) -> str:
    """What tells a run from others of its name: the hash of LoadGen's log of its performance test."""
    file = run / "performance/mlperf_log_detail.txt"
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror}); this run folder is incomplete") from None


def read_earlier(run: Run, target: Path) -> dict[str, Verdict]:
    """By name, tests of this run that are in the folder. Raises ConfigError where it is another run's."""
    if not (target / "comply.json").exists():
        return {}
    found = read_verdicts(target)
    if found["log"] != performance_log_hash(run.folder):
        raise ConfigError(f"{str(target)!r} holds the tests of another run; give --output another folder, or remove it")
    return {name: Verdict(name, v["result"], v["told"], v["basis"], v["figures"]) for name, v in found["tests"].items()}


def as_json(found: Compliance, run: Run) -> dict[str, Any]:
    tests = {v.test: {"result": v.result, "told": v.told, "basis": v.basis, "figures": dict(v.figures)} for v in found.verdicts}
    return {
        "run": run.folder.resolve().name,
        "log": performance_log_hash(run.folder),
        "benchmark": run.config.benchmark,
        "rules": run.config.rules,
        "verdict": found.verdict,
        "tests": tests,
        "note": UNVERIFIED,
    }


def print_table(found: Compliance) -> None:
    """To stderr."""
    from rich.console import Console
    from rich.table import Table

    console = Console(stderr=True, highlight=False)
    if found.verdict == "NONE ASKED":
        console.print(f"NONE ASKED  MLPerf asks for no compliance test of {found.benchmark}; nothing was run", markup=False, soft_wrap=True)
        return
    console.print(f"{found.verdict}  MLPerf's compliance tests. {UNVERIFIED}", markup=False)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("test", "result", "what was seen", "threshold"):
        table.add_column(column, overflow="fold")
    for v in found.verdicts:
        table.add_row(v.test, v.result, v.told, v.basis)
    console.print(table)
    console.print(f"files: {found.folder}", markup=False)


def line(found: Compliance) -> Mapping[str, Any]:
    """For the last line on stdout."""
    return {
        "comply": str(found.folder) if found.verdicts else None,
        "verdict": found.verdict,
        "tests": {v.test: v.result for v in found.verdicts},
    }
