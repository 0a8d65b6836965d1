"""Shows each benchmark's figures over the stored results, and names regressions: python -m benchmarks.trend [NAME ..]

Results of one processor, number of CPUs and device are compared with each other. A figure has regressed where its latest value is worse
than the median of the earlier ones by more than its spread: the largest distance between the repeats of one run, or between the earlier
runs, whichever is larger, and at least LEAST of the value. Exit code 1 where any has. Results of before the history (NAME.json) are in the
list without figures of their own, and are compared with nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.outcome import RESULTS, print_table, shown

LEAST = 0.02  # a change of less is none


class Regression(NamedTuple):
    """latest is worse than the median of the earlier values by more than the spread. All in the figure's unit."""

    name: str
    figure: str
    earlier: float
    latest: float
    spread: float


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks (default: all that have results)")
    given = parser.parse_args(argv)
    stored = histories()
    if unknown := sorted(set(given.names) - set(stored)):
        parser.error(f"no results of {', '.join(unknown)}; there are some of: {', '.join(stored)}")
    regressions = []
    for name in given.names or stored:
        print(f"== {name}")
        print_table([row for result in stored[name] for row in _rows(result)])
        regressions += find_regressions(name, stored[name])
    for r in regressions:
        print(f"REGRESSION {r.name}, {r.figure}: {shown(r.latest)}, was {shown(r.earlier)}; its spread is {shown(r.spread)}")
    return int(bool(regressions))


def histories() -> dict[str, list[dict[str, Any]]]:
    """All stored results by benchmark, oldest first. The one of before the history is the first."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(RESULTS.glob("*.json")):
        lines = path.read_text(encoding="utf-8").splitlines()
        if lines[0].startswith('{"name"'):  # the GPU benchmark has a form of its own
            found[path.stem] = [json.loads(line) for line in lines]
    for path in sorted(RESULTS.glob("*.jsonl")):
        found.setdefault(path.stem, []).extend(json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return dict(sorted(found.items()))


def find_regressions(name: str, history: Sequence[dict[str, Any]]) -> list[Regression]:
    """Those of the latest result against the earlier ones of the same machine."""
    measured = [result for result in history if "figures" in result]
    if not measured:
        return []
    same = [result for result in measured if _machine(result) == _machine(measured[-1])]
    found = []
    for figure, latest in same[-1]["figures"].items():
        earlier = [result["figures"][figure] for result in same[:-1] if figure in result["figures"]]
        values = [one["value"] for one in earlier if one["value"] is not None]
        if not values or latest["value"] is None:
            continue
        middle = statistics.median(values)
        repeats = [one["repeats"] for one in (*earlier, latest) if one["repeats"]]
        spread = max([*(max(r) - min(r) for r in repeats), max(values) - min(values), LEAST * abs(middle)])
        worse_by = middle - latest["value"] if latest["better"] == "higher" else latest["value"] - middle
        if worse_by > spread:
            found.append(Regression(name, figure, middle, latest["value"], spread))
    return found


def _machine(result: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(result.get(key) for key in ("machine", "processor", "cpus", "device"))


def _rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    place = {"date": result.get("date", "before"), "commit": result.get("commit") or "-", "others": result.get("others")}
    figures = result.get("figures") or {result["unit"]: {"value": result["value"], "unit": "", "repeats": []}}
    rows = []
    for figure, f in figures.items():
        repeats = f"{shown(min(f['repeats']))} to {shown(max(f['repeats']))}" if f["repeats"] else ""
        rows.append({**place, "figure": figure, "value": shown(f["value"]), "unit": f["unit"], "repeats": repeats})
    return rows


if __name__ == "__main__":
    sys.exit(main())
