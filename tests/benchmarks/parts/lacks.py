"""A part that cannot run here."""

from __future__ import annotations

from benchmarks.gpu.part import Job, Keep, NotRunError
from tests.benchmarks.parts.keeps import summary as summary


def measure(job: Job, keep: Keep) -> None:
    raise NotRunError("flux is not installed: pip install flux")
