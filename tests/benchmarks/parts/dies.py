"""A part whose process is killed after its first figure, as by the kernel when memory is short."""

from __future__ import annotations

import os
import signal

from benchmarks.gpu.part import Job, Keep
from tests.benchmarks.parts.keeps import summary as summary


def measure(job: Job, keep: Keep) -> None:
    keep("first", 1)
    os.kill(os.getpid(), signal.SIGKILL)
