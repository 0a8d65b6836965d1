"""audit.html and the table in the terminal: the content of audit.json for people."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.output import open_console
from metrics.report.html.plots import BAD, GOOD, GRID, INK, SOFT, new_figure, to_svg
from metrics.report.html.render import label, number, render
from workloads.run_folder.files import write_json, write_text
from workloads.run_folder.media import browser_video, read_video

FPS = 8.0
COLOURS = {"PASS": GOOD, "FAIL": BAD, "INCONCLUSIVE": SOFT}
TERMINAL = {"PASS": "green", "FAIL": "red", "INCONCLUSIVE": "bright_black"}
SHARES = ("lost", "gained", "McNemar's p")  # columns for metrics that score right or wrong
CLOSENESS = {  # label, unit, meaning
    "psnr_db": ("PSNR", "dB", "pixels; higher is closer, 100 dB for equal videos"),
    "ssim": ("SSIM", "", "structure of the luma; up to 1, which is equal"),
    "vmaf": ("VMAF", "", "predicts how viewers rate compressed video; up to 100, near 0 for other content"),
    "lpips": ("LPIPS", "", "distance in a trained network's features; 0 is equal"),
    "token_agreement": ("agreement", "", "share of the reference's words and punctuation before the first difference"),
    "edit_similarity": ("edit similarity", "", "1 - Levenshtein distance / length of the longer, over characters"),
}


def write_audit(data: Mapping[str, Any], page: Path) -> Path:
    """Write the page and, beside it, its content as JSON under the same name. Returns the JSON file."""
    page.parent.mkdir(parents=True, exist_ok=True)
    worst = [
        {**w, "close": closeness_text(w["closeness"]), **{side: _shown(data, side, w[side]) for side in ("reference", "candidate")}}
        for w in data["worst"]
    ]
    shown = {
        **data,
        "worst": worst,
        "forest": forest_svg(data),
        "sentence": sentence(data),
        "speed_text": speed_text(data),
        "remarks": remarks(data),
    }
    shown["metrics"] = [{**m, "p_text": p_text(m["p_difference"])} for m in data["metrics"]]
    shown["shares"] = any(m["kind"] == "share" for m in data["metrics"])
    shown["closeness_labels"] = {name: title for name, (title, _, _) in CLOSENESS.items()}
    shown["closeness_meanings"] = {name: meaning for name, (_, _, meaning) in CLOSENESS.items()}
    write_text(page, render("audit.html.j2", shown))
    target = page.with_suffix(".json")
    write_json(target, data)
    return target


def sentence(data: Mapping[str, Any]) -> str:
    """The result of the audit in one sentence."""
    by = {v: [label(m["name"]) for m in data["metrics"] if m["verdict"] == v] for v in ("PASS", "FAIL", "INCONCLUSIVE")}
    speed = f"The candidate is {speed_text(data)}"
    if data["verdict"] == "FAIL":
        return f"{speed}, and worse by more than {data['margin']} in {', '.join(by['FAIL'])}."
    if data["verdict"] == "PASS":
        return f"{speed}, and no metric is worse by {data['margin']}."
    more = [m["further_samples"] for m in data["metrics"] if m["verdict"] == "INCONCLUSIVE"]
    needed = f"about {max(more):,} more prompts are needed" if all(more) else "no reasonable number of prompts can decide it at this margin"
    loss = f"{', '.join(by['INCONCLUSIVE'])} lost {data['margin']}"
    return f"{speed}; whether {loss} cannot be decided from {data['num_pairs']} prompts: {needed}."


def speed_text(data: Mapping[str, Any]) -> str:
    """`1.52x as fast (95 % interval 1.48 to 1.56)`."""
    ratio = data["speed"]["paired"] or data["speed"]["throughput"]
    if not ratio:
        return "of unknown speed (an accuracy test is not timed)"
    interval = f" (95 % interval {ratio['ci95'][0]:.2f} to {ratio['ci95'][1]:.2f})" if ratio["ci95"] else ""
    return f"{ratio['value']:.2f}x as fast{interval}"


def remarks(data: Mapping[str, Any]) -> list[str]:
    """What the pairs are, where they are not simply one for each prompt: a sentence each."""
    found = []
    if grouped := [m for m in data["metrics"] if m["num_clusters"] < m["n"]]:
        m = max(grouped, key=lambda m: m["n"])
        found.append(f"{m['n']} answers are to {m['num_clusters']} different prompts; those to the same prompt are resampled together")
    for name, count in data["unpaired"].items():
        how = {"reference": "these count as the worst for PASS, and do not count for FAIL", "candidate": "these are not compared"}
        for side, num_answers in count.items():
            if num_answers:
                found.append(f"{label(name)}: answers with a score in the {side} only: {num_answers}; {how[side]}")
    return found


def p_text(p: float) -> str:
    """A p-value with four decimals."""
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}"


def closeness_text(pair: Mapping[str, Any] | None) -> str:
    """`PSNR 22.1 dB, SSIM 0.813` for one pair; empty if it was not compared."""
    if pair is None:
        return ""
    if pair["equal"]:
        return "equal answers"
    return ", ".join(f"{title} {number(pair[name], unit)}" for name, (title, unit, _) in CLOSENESS.items() if name in pair)


def print_audit(data: Mapping[str, Any]) -> None:
    """Print the verdict, a sentence and a table to stderr."""
    from rich.table import Table

    console = open_console(width=170)
    console.print(data["verdict"], style=f"bold {TERMINAL[data['verdict']]}", end="  ")
    console.print(sentence(data))
    table = Table(box=None, pad_edge=False, header_style="dim")
    shares = any(m["kind"] == "share" for m in data["metrics"])
    heads = [
        "metric",
        "reference",
        "candidate",
        "difference",
        "95 % interval",
        "margin",
        *(SHARES if shares else ()),
        "verdict",
        "more prompts",
    ]
    for i, head in enumerate(heads):
        table.add_column(head, justify="right" if 0 < i < len(heads) - 2 else "left", no_wrap=True)
    for m in data["metrics"]:
        interval = f"{m['ci95'][0]:+.4f} to {m['ci95'][1]:+.4f}" if m["ci95"] else "-"
        more = "-" if m["verdict"] != "INCONCLUSIVE" else f"{m['further_samples']:,}" if m["further_samples"] else "over 10,000"
        cells = [number(m["reference"]), number(m["candidate"]), f"{m['difference']:+.4f}", interval, f"{m['margin']:.4f}"]
        if shares:
            is_share = m["kind"] == "share"
            cells += [str(m["losses"]), str(m["gains"]), p_text(m["p_difference"])] if is_share else ["-"] * len(SHARES)
        table.add_row(m["name"], *cells, m["verdict"], more)
    console.print(table)
    for remark in remarks(data):
        console.print(remark)
    for name, why in data["left_out"].items():
        console.print(f"left out: {name}: {why}")
    console.print(f"margin {data['margin']} ({data['margin_from']})")
    console.print(data["notice"], style="dim")


def forest_svg(data: Mapping[str, Any]) -> str:
    """Plot every metric's difference with its interval, in units of its margin: left of -1 is worse than tolerated."""
    metrics = data["metrics"]
    figure = new_figure(7.6, 0.9 + 0.34 * len(metrics), fitted=True)
    axes = figure.subplots()
    axes.axvline(0, color=INK, linewidth=1)
    axes.axvline(-1, color=INK, linewidth=1, linestyle="--")
    for at, m in enumerate(metrics):
        value = m["difference"] / m["margin"]
        low, high = (end / m["margin"] for end in m["ci95"]) if m["ci95"] else (value, value)
        bars = [[max(0.0, value - low)], [max(0.0, high - value)]]
        axes.errorbar(value, at, xerr=bars, fmt="o", color=COLOURS[m["verdict"]], capsize=3, markersize=5)
    axes.set_yticks(range(len(metrics)), [label(m["name"]) for m in metrics])
    axes.set(xlabel="candidate minus reference, in margins; dashed: the margin; right is better", ylim=(len(metrics) - 0.5, -0.5))
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, -1.3), max(high, 0.3))
    axes.grid(axis="x", color=GRID)
    axes.set_axisbelow(True)
    return to_svg(figure)


def _shown(data: Mapping[str, Any], side: str, answer: Mapping[str, Any]) -> dict[str, Any]:
    """An answer for the page: its video as a data URI if it can be read."""
    src = ""
    if answer["media"]:
        try:
            content = browser_video(read_video(Path(data[side]["folder"]) / answer["media"]), FPS)
            src = "data:video/webm;base64," + base64.b64encode(content).decode()
        except ValueError as error:
            return {**answer, "src": "", "text": str(error)}
    return {**answer, "src": src}
