"""A part that raises after its first figure."""

from __future__ import annotations

from benchmarks.gpu.part import Job, Keep
from tests.benchmarks.parts.keeps import summary as summary


def measure(job: Job, keep: Keep) -> None:
    keep("first", 1)
    raise RuntimeError("an illegal memory access was encountered\nCUDA kernel errors might be reported later")
