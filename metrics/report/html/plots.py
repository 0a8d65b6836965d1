"""The report's plots, as SVG text to put into a page."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from workloads.mlperf.notices import UNVERIFIED
from workloads.records import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, GRID, BLUE, AMBER = "#1d2433", "#e3e6ec", "#2f6fde", "#d9822b"
GOOD, BAD, SOFT = "#18794e", "#c62a2f", "#5b6475"  # as on the pages, style.css
NOTICE_INCHES = 0.13
MAX_STEPS = 400  # of a cumulative curve: more are not visible
NEARLY_EQUAL_S = 1e-6  # a histogram of a smaller range has one bar
PALETTE = ("#2f6fde", "#12a594", "#d9822b", "#8e4ec6", "#e5484d", "#687076", "#30a46c", "#c2298a")


def latency_svg(latencies: Sequence[float], label: str) -> str:
    """Histogram and cumulative share, side by side, of seconds."""
    figure = new_figure(7.6, 2.5)
    left, right = figure.subplots(1, 2)
    low, high = min(latencies), max(latencies)
    spread = (low, high) if high - low > NEARLY_EQUAL_S else (0.9 * low, 1.1 * high + NEARLY_EQUAL_S)
    left.hist(np.array(latencies), bins=min(40, max(8, len(latencies) // 4)), range=spread, color=BLUE)
    left.set(xlabel=f"{label}, s", ylabel="queries")
    ordered = np.sort(latencies)
    index = np.unique(np.linspace(0, len(ordered) - 1, MAX_STEPS).round().astype(int))
    right.step(ordered[index], (index + 1) / len(ordered), where="post", color=BLUE)
    for share in (0.5, 0.9):
        right.axhline(share, color=GRID, linewidth=1)
        right.annotate(f"p{share * 100:.0f}", (ordered[0], share), fontsize=7, va="bottom", color=INK)
    right.set(xlabel=f"{label}, s", ylabel="share of queries", ylim=(0, 1.02))
    return to_svg(figure)


def stages_svg(seconds: Mapping[str, float]) -> str:
    """One stacked bar: mean seconds of each stage of an answer."""
    rows = -(-len(seconds) // 4)
    figure = new_figure(7.6, 0.9 + 0.18 * rows, above=0.1 + 0.18 * rows)
    axes = figure.subplots()
    at, total = 0.0, sum(seconds.values())
    for (name, value), colour in zip(seconds.items(), PALETTE * 4, strict=False):
        share = f"{name.replace('_', ' ')} {value:.3f} s ({value / total:.0%})" if total else name
        axes.barh(0, value, left=at, color=colour, label=share, height=0.6)
        at += value
    axes.set(yticks=[], xlabel="seconds per answer", xlim=(0, total or 1), ylim=(-0.45, 0.45))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, fontsize=7.5, frameon=False)
    return to_svg(figure)


def timeline_svg(records: Sequence[Record]) -> str:
    """Each query as a bar on its rank's row, by the rank's own clock where that is known; failed queries in amber."""
    ranks = sorted({r.rank for r in records if r.started_s is not None})
    figure = new_figure(7.6, 0.9 + 0.28 * min(len(ranks), 24))
    axes = figure.subplots()
    rows = {rank: row for row, rank in enumerate(ranks)}
    spans: dict[tuple[int, str], list[tuple[float, float]]] = {}  # by row and colour: as single bars, each takes a millisecond
    for record in records:
        if record.started_s is not None:
            colour = AMBER if record.status == "failed" else PALETTE[0] if (record.query_id // record.batch_size) % 2 else "#8fb4f2"
            start, end = record.worked_s or (record.started_s, record.completed_s)
            spans.setdefault((rows[record.rank], colour), []).append((start, end - start))
    for (row, colour), bars in spans.items():
        axes.broken_barh(bars, (row - 0.35, 0.7), color=colour)
    shown = ranks if len(ranks) <= 24 else ranks[:: len(ranks) // 12]
    axes.set(yticks=[rows[r] for r in shown], yticklabels=[f"rank {r}" for r in shown], xlabel="seconds since the first query")
    axes.set_xlim(left=0)
    return to_svg(figure)


def new_figure(width: float, height: float, above: float = 0.12, fitted: bool = False) -> Figure:
    """An empty figure, in inches, with the notice that must accompany every result: a plot may be copied out of its page.

    above: room above the axes for a title or legend. fitted: matplotlib computes the margins, which long labels need. It lays out all text
    twice more for that, half of the time of a short run's whole report; other figures have fixed margins.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height + NOTICE_INCHES), layout="constrained" if fitted else None)
    if not fitted:
        total = height + NOTICE_INCHES
        figure.subplots_adjust(0.66 / width, (0.42 + NOTICE_INCHES) / total, 1 - 0.12 / width, 1 - above / total, wspace=0.2)
    figure.supxlabel(UNVERIFIED, x=0.995, ha="right", fontsize=5.5, color=SOFT)
    return figure


def to_svg(figure: Figure) -> str:
    """The figure as an svg element. Text stays text, and ids are the same from run to run."""
    import matplotlib

    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8, colors=INK)
        axes.xaxis.label.set_fontsize(8)
        axes.yaxis.label.set_fontsize(8)
    out = io.StringIO()
    settings: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "triptych", "font.family": "sans-serif"}
    with matplotlib.rc_context(settings):
        figure.savefig(out, format="svg", metadata={"Date": None}, transparent=True)
    text = out.getvalue()
    return text[text.index("<svg") :]
