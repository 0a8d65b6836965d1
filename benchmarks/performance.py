"""Writes the tables and plots of docs/performance.md from the latest stored results: python -m benchmarks.performance

A section of the page has its table between `<!-- NAME -->` and `<!-- end -->`; what stands around it is written by hand. A benchmark with
a stored history has a section, which tests/benchmarks/test_performance.py checks, as it checks that the page is current.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.outcome import Figure, row, shown
from benchmarks.trend import histories

PAGE = Path(__file__).resolve().parents[1] / "docs/performance.md"
SECTION = re.compile(r"(?s)<!-- ([\w-]+) -->\n.*?<!-- end -->")
NARROW_US = 2.5  # a bar has no room for a name
MOST_ROWS = 60  # of details that are shown; a script prints all of them
RATE_PLOT = PAGE.with_name("rate.svg")


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(fill(text, histories()), encoding="utf-8")
    draw_rates(histories().get("rate", []), RATE_PLOT)


def fill(page: str, stored: Mapping[str, Sequence[dict[str, Any]]]) -> str:
    """The page with the tables of the latest results."""

    def section(match: re.Match[str]) -> str:
        name = match[1]
        results = [result for result in stored.get(name, []) if "figures" in result]
        return f"<!-- {name} -->\n{_tables(results[-1]) if results else 'No result is stored.'}\n<!-- end -->"

    return SECTION.sub(section, page)


def sections(page: str) -> list[str]:
    """Names of the benchmarks that the page has a section of."""
    return [match[1] for match in SECTION.finditer(page)]


def _tables(result: dict[str, Any]) -> str:
    others = "unknown" if result["others"] is None else f"{result['others']:.0%}"
    where = f"{result['cpus']} CPUs ({result['processor']})" + (f", {result['device']}" if "device" in result else "")
    facts = f"{result['date'][:10]}, commit {result['commit']}, {where}; other work used {others} of the CPUs."
    figures = _markdown([row(name, Figure(**figure)) for name, figure in result["figures"].items()])
    rows = result.get("rows", [])
    details = f"\n\n{_markdown(rows[:MOST_ROWS])}" if rows else ""
    return f"{facts}\n\n{figures}{details}"


def _markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    keys = list(rows[0])
    lines = [keys, ["---"] * len(keys), *([_cell(r.get(key, "")) for key in keys] for r in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    return shown(value).replace("|", "\\|")


def draw_rates(results: Sequence[dict[str, Any]], path: Path) -> None:
    """CPU microseconds a query of the latest result's processes, the suite beside the bare prototype."""
    measured = [result for result in results if result.get("rows")]
    if not measured:
        return
    from matplotlib import rc_context
    from matplotlib.figure import Figure as Canvas

    parts = [r for r in measured[-1]["rows"] if r["part"] == "all"]
    with rc_context({"svg.hashsalt": "triptych", "svg.fonttype": "none"}):  # the same file for the same result
        canvas = Canvas(figsize=(7, 1.9), layout="constrained")
        axes = canvas.subplots()
        left: dict[str, float] = {}
        colours = {name: f"C{n}" for n, name in enumerate(dict.fromkeys(p["process"] for p in parts))}
        for p in parts:
            begin = left.get(p["what"], 0.0)
            axes.barh(p["what"], p["CPU us a query"], left=begin, color=colours[p["process"]], edgecolor="white")
            if p["CPU us a query"] > NARROW_US:
                axes.text(begin + p["CPU us a query"] / 2, p["what"], p["process"], ha="center", va="center", fontsize=7, color="white")
            left[p["what"]] = begin + p["CPU us a query"]
        axes.set(xlabel="CPU microseconds a query")
        axes.spines[["top", "right"]].set_visible(False)
        axes.invert_yaxis()
        canvas.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
