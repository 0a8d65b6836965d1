"""compare.html and the table in the terminal: the content of compare.json for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.output import open_console, printable, styled
from metrics.report.html.plots import AMBER, BLUE, GRID, INK, new_figure, to_svg
from metrics.report.html.render import label, number, render, report_link
from workloads.run_folder.files import write_json, write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_DIFFERENCES = 4  # that are listed for a row; compare.json has all
LONG_LABEL = 28
WIDE = 5  # the axis of speed-ups is logarithmic if the largest is this many times the smallest


def write_comparison(data: Mapping[str, Any], page: Path) -> Path:
    """Write the page and, beside it, its content as JSON under the same name. Returns the JSON file."""
    page.parent.mkdir(parents=True, exist_ok=True)
    rows = [row for group in data["groups"] for row in group["rows"]]
    num_invalid = sum(row["verdict"] != "VALID" for row in rows)
    shown = {
        "groups": [{**group, "rows": [_shown(row, page) for row in group["rows"]], "svg": quality_svg(group)} for group in data["groups"]],
        "means": data["geometric_means"],
        "mean_missing": _mean_missing(data),
        "speed_up_svg": speed_up_svg(data["groups"]),
        "verdict": "INVALID" if num_invalid else "VALID",
        "num_invalid": num_invalid,
        "single": any(len(row["runs"]) == 1 for row in rows),
        "num_rows": len(rows),
        "rules": sorted({row["rules"] for row in rows}),
        "notice": data["notice"],
    }
    write_text(page, render("compare.html.j2", shown))
    target = page.with_suffix(".json")
    write_json(target, data)
    return target


def print_comparison(data: Mapping[str, Any]) -> None:
    """Print a table for each group, and the means, to stderr."""
    from rich.table import Table

    console = open_console(width=180)
    for group in data["groups"]:
        speed = group["speed"]
        console.print(styled(group["title"], "bold"), f": {label(speed['name'])}, {speed['better']} is better ({speed['why']})", sep="")
        table = Table(box=None, pad_edge=False, header_style="dim")
        quality = label(group["quality"]) if group["quality"] else "quality"
        for column in ("run", "verdict", "devices", "speed", "speed-up", "per device", quality, "differences"):
            table.add_column(column, justify="right" if column in ("devices", "speed", "per device") else "left")
        for row in group["rows"]:
            colour = "green" if row["verdict"] == "VALID" else "red"
            cells = (speed_text(row, speed["unit"]), speed_up_text(row), efficiency_text(row), quality_text(row))
            table.add_row(
                row["label"],
                styled(row["verdict"], colour),
                str(row["num_devices"] or "-"),
                *cells,
                "; ".join(differences(row, 2)),
            )
        console.print(table)
    for mean in data["geometric_means"]:
        mark = () if mean["verdict"] == "VALID" else (", includes ", styled("INVALID", "red"), " runs")
        console.print(f"geometric mean over {mean['groups']} of {mean['label']}: {_times(mean['speed_up'], mean['ci95'])}", *mark, sep="")
    if why := _mean_missing(data):
        console.print(why, style="dim")
    console.print(data["notice"], style="dim")


def speed_text(row: Mapping[str, Any], unit: str) -> str:
    return number(row["speed"]["value"], unit) if row["speed"] else "-"


def speed_up_text(row: Mapping[str, Any]) -> str:
    """`1.52x [1.48, 1.56]`."""
    if row["baseline"]:
        return "baseline"
    return _times(row["speed_up"]["value"], row["speed_up"]["ci95"]) if row["speed_up"] else "-"


def efficiency_text(row: Mapping[str, Any]) -> str:
    if row["baseline"] or not row["efficiency"]:
        return "-"
    return f"{row['efficiency']['value']:.0%}"


def quality_text(row: Mapping[str, Any]) -> str:
    """The quality with its interval, and LOWER or HIGHER if that does not overlap the baseline's."""
    quality = row["quality"]
    if not quality:
        return "-"
    interval = f" [{number(quality['ci95'][0])}, {number(quality['ci95'][1])}]" if quality["ci95"] else ""
    spread = f" ({number(quality['range'][0])} to {number(quality['range'][1])} in repeats)" if quality["range"] else ""
    versus = f" {quality['versus_baseline'].upper()}" if quality["versus_baseline"] else ""
    return number(quality["value"]) + interval + spread + versus


def differences(row: Mapping[str, Any], at_most: int = MAX_DIFFERENCES) -> list[str]:
    """`pipeline.num_inference_steps: 8 -> 2`, the first few."""
    if not row["differs"] and not row["baseline"]:
        return ["no recorded difference, as between repeats"]
    absent = {name: "not given" if name.startswith(("pipeline.", "dataset.")) else "none" for name in row["differs"]}
    listed = [
        f"{name}: {_short(before, absent[name])} -> {_short(after, absent[name])}" for name, (before, after) in row["differs"].items()
    ]
    return listed[:at_most] + ([f"and {len(listed) - at_most} more"] if len(listed) > at_most else [])


def speed_up_svg(groups: Sequence[Mapping[str, Any]]) -> str:
    """Plot every row's speed-up with its interval, group by group; empty if there is none."""
    rows = [(group, row) for group in groups for row in group["rows"] if row["speed_up"]]
    if not rows:
        return ""
    several = len([g for g in groups if any(row["speed_up"] for row in g["rows"])]) > 1
    figure = new_figure(7.6, 0.75 + 0.34 * len(rows), fitted=True)
    axes = figure.subplots()
    axes.axvline(1, color=INK, linewidth=1)
    for at, (_, row) in enumerate(rows):
        value, (colour, fill) = row["speed_up"]["value"], _colours(row)
        axes.errorbar(value, at, xerr=_bars(value, row["speed_up"]["ci95"]), fmt="o", color=colour, mfc=fill, capsize=3, markersize=5)
        axes.annotate(
            f"{value:.2f}x" + (" INVALID" if row["verdict"] != "VALID" else ""),
            (_ends(row)[1], at),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=INK,
        )
    from matplotlib.ticker import NullLocator

    names = [(f"{group['title']}: " if several else "") + _clipped(row["label"]) for group, row in rows]
    axes.set_yticks(range(len(rows)), names, parse_math=False)
    axes.set(xlabel="speed-up over the baseline, 95 % interval", ylim=(len(rows) - 0.5, -0.5))
    low, high = min(1.0, *(_ends(row)[0] for _, row in rows)), max(1.0, *(_ends(row)[1] for _, row in rows))
    if high > WIDE * low:
        axes.set_xscale("log")
        ticks = [m * 10.0**e for e in range(-4, 5) for m in (1, 2, 5) if low / 1.5 <= m * 10.0**e <= 1.5 * high]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(low / 1.3, high * (high / low) ** 0.12)
    else:
        axes.set_xlim(0, 1.12 * high)
    axes.grid(axis="x", color=GRID)
    axes.set_axisbelow(True)
    return to_svg(figure)


def quality_svg(group: Mapping[str, Any]) -> str:
    """Plot quality over speed, a point for each row; empty if fewer than two rows have both."""
    rows = [row for row in group["rows"] if row["quality"] and row["speed"]]
    if len(rows) < 2:
        return ""
    figure = new_figure(7.6, 2.9, fitted=True)
    axes = figure.subplots()
    for i, row in enumerate(rows):
        x, y = row["speed"]["value"], row["quality"]["value"]
        colour, fill = _colours(row)
        xerr, yerr, mark = _bars(x, row["speed"]["ci95"]), _bars(y, row["quality"]["ci95"]), "s" if row["baseline"] else "o"
        axes.errorbar(x, y, xerr=xerr, yerr=yerr, fmt=mark, color=colour, mfc=fill, capsize=2.5, markersize=5, linewidth=1)
        _name_point(axes, row, (x, y), i)
    speed = group["speed"]
    unit = "" if speed["unit"].endswith("/s") else f", {speed['unit']}"
    axes.set(xlabel=f"{label(speed['name'])}{unit} ({speed['better']} is better)", ylabel=label(group["quality"]))
    axes.margins(x=0.18, y=0.14)
    axes.grid(color=GRID)
    axes.set_axisbelow(True)
    return to_svg(figure)


def _name_point(axes: Axes, row: Mapping[str, Any], at: tuple[float, float], place: int) -> None:
    """Write the names alternately above and below, so that those of close points do not overlap."""
    text = _clipped(row["label"]) + (" (baseline)" if row["baseline"] else "") + (" INVALID" if row["verdict"] != "VALID" else "")
    above = place % 2 == 0
    offset, align = ((6, 5), "bottom") if above else ((6, -5), "top")
    axes.annotate(text, at, xytext=offset, textcoords="offset points", va=align, fontsize=8, color=INK, parse_math=False)


def _mean_missing(data: Mapping[str, Any]) -> str:
    """Why there is no geometric mean over groups; empty if there is one, or only one group."""
    if data["geometric_means"] or len(data["groups"]) < 2:
        return ""
    return "no geometric mean: it is unknown which rows of the groups belong together; give them the same --label"


def _shown(row: Mapping[str, Any], page: Path) -> dict[str, Any]:
    runs = [{**run, "href": report_link(page.parent, Path(run["folder"]).resolve())} for run in row["runs"]]
    texts = {"speed_up_text": speed_up_text(row), "efficiency_text": efficiency_text(row), "differences": differences(row)}
    return {**row, **texts, "runs": runs}


def _colours(row: Mapping[str, Any]) -> tuple[str, str]:
    """The colours of a row's lines and of its mark, which is hollow if the row is INVALID."""
    if row["verdict"] != "VALID":
        return AMBER, "white"
    return (INK, INK) if row["baseline"] else (BLUE, BLUE)


def _ends(row: Mapping[str, Any]) -> tuple[float, float]:
    """The ends of the speed-up's interval; the speed-up itself if it has none."""
    low, high = row["speed_up"]["ci95"] or [row["speed_up"]["value"]] * 2
    return low, high


def _bars(value: float, ci95: Sequence[float] | None) -> list[list[float]] | None:
    return [[max(0.0, value - ci95[0])], [max(0.0, ci95[1] - value)]] if ci95 else None


def _times(value: float, ci95: Sequence[float] | None) -> str:
    return f"{value:.2f}x" + (f" [{ci95[0]:.2f}, {ci95[1]:.2f}]" if ci95 else " (too short for an interval)")


def _clipped(name: str) -> str:
    text = printable(name)  # fonts have no control characters: matplotlib warns of each
    return text if len(text) <= LONG_LABEL else "..." + text[3 - LONG_LABEL :]


def _short(value: Any, absent: str) -> str:
    text = absent if value is None else str(value)
    return text if len(text) <= 40 else text[:37] + "..."
