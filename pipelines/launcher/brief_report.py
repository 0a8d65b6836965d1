"""The brief report of a run that was given up: verdict and reasons, without figures."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

LONGEST_S = 20.0


def report_briefly(folder: Path) -> None:
    """Write report.json and report.html. suite.py is started, not imported: pipelines may not import metrics."""
    command = [sys.executable, "-m", "suite", "report", "--brief", str(folder)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=env, timeout=LONGEST_S)
