"""Plots for workloads whose answers are tokens, as SVG text to put into a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metrics.performance.token_times import token_times_or_spread
from metrics.report.html.plots import AMBER, BLUE, GRID, INK, MAX_STEPS, PALETTE, new_figure, to_svg
from workloads.records import Record

NAMES = {"ttft": "TTFT", "tpot": "TPOT"}
NUM_BINS = 60  # of the time axis
WIDE = 4  # a limit this many times the longest wait is drawn on a logarithmic axis
STEEP = 3  # times the limit: above it the axis is logarithmic
MAX_STACKED = 8  # ranks that get a colour of their own


def waits_svg(waits: Mapping[str, Sequence[float]], limits: Mapping[str, float], share: float) -> str:
    """Cumulative share of queries by seconds, one panel per name, with its limit and the share that must meet it."""
    figure = new_figure(7.6, 2.6, above=0.25)
    for axes, (name, seconds) in zip(np.ravel(figure.subplots(1, len(waits), squeeze=False)), waits.items(), strict=True):
        _cumulative(axes, seconds)
        axes.set(xlabel=f"{NAMES.get(name, name)}, s", ylabel="share of queries", ylim=(0, 1.04))
        axes.locator_params(axis="x", nbins=6)
        if (limit := limits.get(name)) is not None:
            met = sum(s <= limit for s in seconds) / len(seconds)
            axes.axvline(limit, color=AMBER, linewidth=1.2)
            axes.axhline(share, color=AMBER, linewidth=1, linestyle=":")
            if limit > WIDE * max(seconds):
                axes.set_xscale("log")
            else:
                axes.set_xlim(0, 1.04 * max(1.3 * limit, max(seconds)))
            axes.set_title(f"limit {limit:g} s for {share:.0%} of queries: {met:.1%} meet it", fontsize=8, color=AMBER)
        else:
            axes.set_xlim(left=0)
    return to_svg(figure)


def throughput_svg(records: Sequence[Record]) -> str:
    """Output tokens per second over the test."""
    times = token_times_or_spread(records)
    end = max(r.completed_s for r in records)
    counts, edges = np.histogram(times, NUM_BINS, (0.0, end))
    figure = new_figure(7.6, 2.0, above=0.25)
    axes = figure.subplots()
    axes.stairs(counts / (end / NUM_BINS), edges, color=BLUE, fill=True, alpha=0.85)
    axes.axhline(len(times) / end, color=INK, linewidth=0.8, linestyle=":")
    axes.set_title(f"dotted: the mean, {len(times) / end:,.0f} tokens/s", fontsize=7.5, color=INK, loc="right")
    axes.set(xlabel="seconds since the first query", ylabel="output tokens/s", xlim=(0, end))
    return to_svg(figure)


def occupancy_svg(records: Sequence[Record]) -> str:
    """Queries in service over the test, stacked by rank; only their sum where there are many ranks."""
    started = [r for r in records if r.started_s is not None]
    ranks = sorted({r.rank for r in started})
    end = max(r.completed_s for r in started)
    edges = np.linspace(0, end, 4 * NUM_BINS + 1)
    levels = [_in_service([r for r in started if r.rank == rank], edges) for rank in ranks]
    figure = new_figure(7.6, 2.0, above=0.3 if len(ranks) > 1 else 0.12)
    axes = figure.subplots()
    if len(ranks) > MAX_STACKED:
        levels, labels = [np.sum(levels, axis=0)], [f"{len(ranks)} ranks"]
    else:
        labels = [f"rank {rank}" for rank in ranks]
    floor = np.zeros(len(edges) - 1)
    for level, label, colour in zip(levels, labels, PALETTE, strict=False):
        axes.stairs(floor + level, edges, baseline=floor, fill=True, color=colour, alpha=0.85, label=label)
        floor = floor + level
    axes.set(xlabel="seconds since the first query", ylabel="queries in service", xlim=(0, end))
    axes.set_ylim(bottom=0)
    if len(ranks) > 1:
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=MAX_STACKED, fontsize=7.5, frameon=False)
    return to_svg(figure)


def lengths_svg(records: Sequence[Record]) -> str:
    """Histograms of prompt and answer lengths, in tokens."""
    done = [r for r in records if r.status == "done"]
    counts = {"prompt": [r.num_input_tokens for r in done if r.num_input_tokens], "answer": [r.num_units for r in done]}
    shown = {name: lengths for name, lengths in counts.items() if lengths}
    figure = new_figure(7.6, 2.0)
    for axes, (name, lengths) in zip(np.ravel(figure.subplots(1, len(shown), squeeze=False)), shown.items(), strict=True):
        axes.hist(np.array(lengths), bins=_whole_bins(max(lengths)), color=BLUE)
        axes.set(xlabel=f"tokens of the {name}", ylabel="queries")
    return to_svg(figure)


def search_svg(probes: Sequence[Mapping[str, Any]], limits: Mapping[str, float], best: float | None) -> str:
    """Each limited quantity as a share of its limit, over the rate; dots are VALID, crosses INVALID.

    probes: target_qps, verdict, and seconds by `<name>_s`. best: the highest VALID rate.
    """
    figure = new_figure(7.6, 2.8, above=0.3)
    axes = figure.subplots()
    axes.axhline(1, color=AMBER, linewidth=1.2)
    axes.annotate("limit", (0, 1), xycoords=("axes fraction", "data"), xytext=(4, 3), textcoords="offset points", fontsize=7.5, color=AMBER)
    if best is not None:
        axes.axvline(best, color=GRID, linewidth=6, zorder=0)
    for (name, limit), colour in zip(limits.items(), PALETTE, strict=False):
        measured = [p for p in probes if p[f"{name}_s"] is not None]
        points = sorted((float(p["target_qps"]), float(p[f"{name}_s"]) / limit, str(p["verdict"])) for p in measured)
        axes.plot([q for q, _, _ in points], [s for _, s, _ in points], color=colour, linewidth=0.8, alpha=0.5, label=NAMES.get(name, name))
        for verdict, marker in (("VALID", "o"), ("INVALID", "x")):
            chosen = [(q, s) for q, s, v in points if v == verdict]
            axes.plot([q for q, _ in chosen], [s for _, s in chosen], marker, color=colour, markersize=6)
    axes.set(xlabel="target rate, queries/s", ylabel="share of its limit")
    if axes.get_ylim()[1] > STEEP:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    else:
        axes.set_ylim(bottom=0)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, fontsize=7.5, frameon=False)
    return to_svg(figure)


def _in_service(records: Sequence[Record], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean number of queries in service between each two edges."""
    starts, ends = np.array([r.started_s for r in records], float), np.array([r.completed_s for r in records])
    busy = sum(_time_before(edges, sign * 1.0, times) for sign, times in ((1, starts), (-1, ends)))
    return np.diff(busy) / np.diff(edges)


def _time_before(edges: NDArray[np.float64], sign: float, times: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each edge, the sum of its distances to the times before it, multiplied by `sign`."""
    ordered = np.sort(times)
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    count = np.searchsorted(ordered, edges)
    return np.asarray(sign * (count * edges - sums[count]))


def _cumulative(axes: Any, seconds: Sequence[float]) -> None:
    ordered = np.sort(seconds)
    index = np.unique(np.linspace(0, len(ordered) - 1, MAX_STEPS).round().astype(int))
    axes.step(np.concatenate([ordered[:1], ordered[index]]), np.concatenate([[0.0], (index + 1) / len(ordered)]), where="post", color=BLUE)


def _whole_bins(longest: int) -> NDArray[np.int_]:
    """Edges of at most 40 bins that hold equally many whole numbers each."""
    width = -(-(longest + 1) // 40)
    return np.arange(0, longest + 1 + width, width)
