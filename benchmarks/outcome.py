"""The last line of every benchmark: JSON, also written to benchmarks/results/."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def conclude(name: str, value: float, unit: str, goal: float, holds: bool, **more: Any) -> None:
    """Print the line and write it to results/NAME.json."""
    text = json.dumps(line(name, value, unit, goal, holds, **more))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    print(text)


def line(name: str, value: float, unit: str, goal: float, holds: bool, **more: Any) -> dict[str, Any]:
    """goal: the value to reach. holds: whether all goals were reached."""
    fields = {"name": name, "value": round(value, 4), "unit": unit, "goal": goal, "holds": holds}
    return fields | {"machine": platform.machine(), "cpus": _cpus()} | more


def _cpus() -> int:
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
