"""A part that runs to its end, and reports its process."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from benchmarks.gpu.part import Job, Keep


def measure(job: Job, keep: Keep) -> None:
    keep("process", os.getpid())
    keep("ceilings", dict(job.ceilings))


def summary(figures: Mapping[str, Any]) -> str:
    return ", ".join(figures)
