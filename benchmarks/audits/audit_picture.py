"""The picture of audit_statistics.py: false PASS rates, coverage and power of every setting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.audits.audit_simulations import ALPHA, PAIRS, POWER, SHAPES

COVERAGE = (0.935, 0.965)


def draw_picture(results: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Plot one row for each setting: false PASS rate at the margin, coverage, and power above the planned one."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(15, 7.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    rows = results["means"] + results["shares"]
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    shades = dict(zip(PAIRS, ("#9ec5f4", "#6ba3ea", "#2f6fde", "#1c4aa0", "#0d2a63"), strict=True))
    for axes, rate, other in (
        (left, "false_pass", ("false_pass_t", "false_pass_tango")),
        (middle, "coverage", ("coverage_t", "coverage_tango")),
    ):
        for row in rows:
            y = kinds.index(row["kind"]) + (PAIRS.index(row["n"]) - 2) * 0.14
            usual = next(row[key] for key in other if key in row)
            axes.plot([usual], [y], "o", markersize=4, markerfacecolor="none", markeredgecolor="#d9822b")
            axes.plot([row[rate]], [y], "o", markersize=5, color=shades[row["n"]])
        axes.set(yticks=range(len(kinds)), ylim=(len(kinds) - 0.4, -0.6))
        axes.axhline(len(SHAPES) - 0.5, color="#687076", linewidth=0.8)
    left.set_yticklabels(kinds)
    left.axvline(ALPHA, color="#e5484d", linewidth=1)
    left.set(title="PASS of a candidate that is worse\nby exactly the margin (at most 0.05)", xlabel="share of audits", xlim=(-0.01, 0.56))
    middle.set_yticklabels([])
    middle.axvspan(*COVERAGE, color="#e3e6ec", zorder=0)
    middle.axvline(0.95, color="#e5484d", linewidth=1)
    middle.set(title="95 % interval contains the true difference\n(band: 0.95 +- 0.015)", xlabel="share of audits", xlim=(0.44, 1.01))
    powers = results["power"]
    names = list(dict.fromkeys(row["kind"] for row in powers))
    for row in powers:
        y = names.index(row["kind"]) + (0.15 if row["planned"] == POWER else -0.15)
        right.plot([row["power"] - row["planned"]], [y], "s" if row["planned"] == POWER else "^", markersize=5, color="#2f6fde")
    right.axvline(0, color="#e5484d", linewidth=1)
    right.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.4, -0.6), xlim=(-0.2, 0.22))
    right.set(title="power at the planned number of pairs,\nabove (+) or below (-) the planned power", xlabel="share of audits")
    right.axhline(sum(shape.cluster == 1 for shape in SHAPES.values()) - 0.5, color="#687076", linewidth=0.8)
    right.legend(
        handles=[Line2D([], [], marker=m, linestyle="", color="#2f6fde", label=f"planned {p}") for m, p in (("^", 0.8), ("s", POWER))],
        loc="lower right",
        fontsize=8,
    )
    handles = [Line2D([], [], marker="o", linestyle="", color=shades[n], label=f"{n} pairs") for n in PAIRS]
    handles.append(
        Line2D([], [], marker="o", linestyle="", markerfacecolor="none", markeredgecolor="#d9822b", label="Student's t; Tango's score test")
    )
    left.legend(handles=handles, loc="lower right", fontsize=8)
    for axes in (left, middle, right):
        axes.grid(axis="x", color="#e3e6ec", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8.5)
        axes.title.set_fontsize(10)
    figure.savefig(path, dpi=90)
