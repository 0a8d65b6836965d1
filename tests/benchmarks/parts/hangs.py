"""A part that never ends, and starts a process that does not end either."""

from __future__ import annotations

import subprocess
import time

from benchmarks.gpu.part import Job, Keep
from tests.benchmarks.parts.keeps import summary as summary


def measure(job: Job, keep: Keep) -> None:
    keep("started", subprocess.Popen(["sleep", "600"]).pid)
    time.sleep(600)
