"""Runs of suite.py for the benchmarks of this folder, on ranks forked from a process that has its imports behind it."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Container, Sequence
from pathlib import Path

from tests.conftest import ROOT, suite_env
from tests.forked_ranks import start_ranks


def suite(words: Sequence[str], fine: Container[int] | None = (0,), ranks: int = 1) -> str:
    """Run suite.py on so many ranks; returns what it wrote to stderr. An exit code that is not fine ends the benchmark. None: all are."""
    with tempfile.TemporaryDirectory(prefix="triptych-audit-") as place:
        folder = Path(place) / "run"
        folder.mkdir()
        started = start_ranks(folder, words, ranks, suite_env() | {"OMP_NUM_THREADS": "1"}, ROOT / "suite.py")
        for process, _ in started:
            process.join()
        code = next((process.exitcode for process, _ in started if process.exitcode), 0)
        errors = "".join(outputs[1].read_text(encoding="utf-8") for _, outputs in started)
    if fine is not None and code not in fine:
        sys.exit(f"suite.py {' '.join(words)} ended with {code}:\n{errors[-2000:]}")
    return errors
