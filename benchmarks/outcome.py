"""What every benchmark ends with: tables, then one JSON line, which a full run appends to benchmarks/results/NAME.jsonl.

A benchmark is any file below benchmarks/ (outside gpu/) that ends with `if __name__ == "__main__":`; `make bench` and `make test` find it:

    def main(argv: Sequence[str] | None = None) -> None:
        given = arguments(__doc__).parse_args(argv)  # arguments() is an ArgumentParser with --short; add your own options to it
        times = [measure(given.short) for _ in range(1 if given.short else 5)]
        figures = {"first query": Figure(statistics.median(times), "s", better="lower", goal=3.0, repeats=times)}
        conclude("startup", figures, given, rows=[{"stage": "imports", "s": 1.2}, ...])

--short takes less than 20 s, and better 3 CPU-seconds: `make test` runs it in its own process for its form (main(["--short"])); nothing is
stored. The first figure is the headline. Give ratios to something measured in the same minute rather than rates of this machine, and all
repeats of a figure: `python -m benchmarks.trend` calls a change a regression where it is larger than their spread. docs/performance.md
has a section for each stored result, between `<!-- NAME -->` and `<!-- end -->`, which `python -m benchmarks.performance` writes.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import platform
import resource
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

RESULTS = Path(__file__).parent / "results"
DIGITS = 4  # significant ones of stored figures


@dataclass(frozen=True)
class Figure:
    """One measured value. repeats: of the same measurement, among them the value; they give its spread. goal: the value to reach."""

    value: float
    unit: str
    better: Literal["higher", "lower"] = "higher"
    goal: float | None = None
    repeats: Sequence[float] = ()

    @property
    def reached(self) -> bool:
        """Whether the goal is reached; True where there is none."""
        return self.goal is None or (self.value >= self.goal if self.better == "higher" else self.value <= self.goal)


class Clock(NamedTuple):
    """When a benchmark began. busy_s: CPU seconds that all processes of the machine had used until then; NaN where that is not known."""

    wall_s: float
    own_s: float
    busy_s: float


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """A parser with --short. doc: of the script."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--short", action="store_true", help="a few seconds, to see that it runs; nothing is stored")
    parser.set_defaults(clock=_clock())
    return parser


def conclude(
    name: str,
    figures: Mapping[str, Figure],
    given: argparse.Namespace,
    rows: Sequence[Mapping[str, Any]] = (),
    conditions: Mapping[str, bool] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Print tables of the rows and the figures, then the JSON line; store it unless `given.short`. Returns what the line holds.

    given: what arguments() parsed. rows: a table with details, each row with the same keys. conditions: what must be true besides the
    goals. more: further facts for the line.
    """
    holds = all(f.reached for f in figures.values()) and all((conditions or {}).values())
    head = next(iter(figures.values()))
    line = {"name": name, "value": _rounded(head.value), "unit": head.unit, "goal": _rounded(head.goal), "holds": holds, **_origin(given)}
    line["figures"] = {key: _rounded(asdict(figure)) for key, figure in figures.items()}
    line |= {"conditions": dict(conditions)} if conditions else {}
    line |= {"rows": _rounded(list(rows))} if rows else {}
    line |= _rounded(more)
    print_table(rows)
    print_table([row(key, figure) for key, figure in figures.items()])
    print_table([{"condition": key, "holds": "yes" if value else "no"} for key, value in (conditions or {}).items()])
    text = json.dumps(line)
    if not given.short:
        RESULTS.mkdir(exist_ok=True)
        with (RESULTS / f"{name}.jsonl").open("a", encoding="utf-8") as file:
            file.write(text + "\n")
    print(text)
    return line


def row(key: str, figure: Figure) -> dict[str, str]:
    """A figure's row in a table."""
    spread = f"{shown(min(figure.repeats))} to {shown(max(figure.repeats))}" if figure.repeats else ""
    goal = "" if figure.goal is None else f"{'>=' if figure.better == 'higher' else '<='} {shown(figure.goal)}"
    reached = "" if figure.goal is None else "yes" if figure.reached else "no"
    return {"figure": key, "value": shown(figure.value), "unit": figure.unit, "repeats": spread, "goal": goal, "reached": reached}


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows under the keys of the first one; nothing where there are none."""
    if not rows:
        return
    lines = [list(rows[0]), *([shown(r.get(key, "")) for key in rows[0]] for r in rows)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(lines[0]))]
    numeric = [all(not isinstance(r.get(key), str) for r in rows) for key in rows[0]]
    for line in lines:
        print("  ".join(f"{c:>{w}}" if right else f"{c:{w}}" for c, w, right in zip(line, widths, numeric, strict=True)).rstrip())
    print(flush=True)


def shown(value: object) -> str:
    """A cell of a table: numbers with thousands separated and four significant digits."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, int) or (isinstance(value, float) and abs(value) >= 1000 and math.isfinite(value)):
        return f"{value:,.0f}"
    return f"{value:.{DIGITS}g}" if isinstance(value, float) else str(value)


def _origin(given: argparse.Namespace) -> dict[str, Any]:
    """What the figures depend on. others: the share of the machine's CPU time that other processes used meanwhile."""
    clock, began = _clock(), given.clock
    wall_s = clock.wall_s - began.wall_s
    own_s, busy_s = clock.own_s - began.own_s, clock.busy_s - began.busy_s
    others = (busy_s - own_s) / (wall_s * (os.cpu_count() or 1))
    return {
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": platform.machine(),
        "processor": _processor(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "others": None if math.isnan(others) else round(min(1.0, max(0.0, others)), 2),
        "wall_s": round(wall_s, 1),
        "cpu_s": round(own_s, 1),
        "arguments": {
            key: value if isinstance(value, int | float | list) else str(value)
            for key, value in vars(given).items()
            if key != "clock" and not isinstance(value, Path)  # a folder says something of the machine, and nothing of the figures
        },
    }


def _clock() -> Clock:
    own_s = sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    stat = Path("/proc/stat")
    if not stat.exists():
        return Clock(time.monotonic(), own_s, math.nan)
    user, nice, system, _, _, irq, softirq, *_ = map(int, stat.read_text(encoding="ascii").splitlines()[0].split()[1:])
    return Clock(time.monotonic(), own_s, (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK"))


def _commit() -> str | None:
    """The commit that is checked out, with a + where files differ from it; None outside a repository."""
    git = ["git", "-C", str(RESULTS.parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no", "--", ".", ":/", ":(exclude)results"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + "+" * bool(changed)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())


def _rounded(value: Any) -> Any:
    """Floats with a few significant digits, wherever they are."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS + 2}g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _rounded(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_rounded(inner) for inner in value]
    return value
