"""One page for several runs: verdict, key figures and a plot of each, with a link to its own report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs.errors import ConfigError
from metrics.report.html import plots, token_plots
from metrics.report.html.page import key_figures
from metrics.report.html.render import png_uri, render, report_link
from metrics.report.recompute import recompute
from metrics.report.report import Report
from metrics.report.run_facts import titles
from workloads.mlperf.notices import notices
from workloads.run_folder.files import write_text


def write_combined(folders: Sequence[Path], out: Path) -> Path:
    """Write the page `out` for runs that have a report; it contains the contact sheets of videos. Verdicts and figures are recomputed.

    Raises ConfigError where no folder is given, one has no report, or its report.json has other values than its records and media give.
    """
    if not folders:
        raise ConfigError("a combined report needs at least one run folder")
    for folder in folders:
        if folder.is_dir() and not (folder / "report.json").is_file():
            raise ConfigError(f"{str(folder)!r} has no report.json; run: suite.py report {folder}")
    reports = [recompute(folder) for folder in folders]
    panels = [_panel(report, title, out) for report, title in zip(reports, titles(reports), strict=True)]
    num_valid = sum(p["r"]["verdict"] == "VALID" for p in panels)
    out.parent.mkdir(parents=True, exist_ok=True)
    verdict = "VALID" if num_valid == len(panels) else "INVALID"
    page = {"panels": panels, "verdict": verdict, "num_valid": num_valid, "notice": notices(r.run.config for r in reports)}
    write_text(out, render("combined_report.html.j2", page))
    return out


def _panel(report: Report, title: str, out: Path) -> dict[str, Any]:
    sheet = report.run.folder / "contact_sheet.png"
    return {
        "r": report.data,
        "title": title,
        "key_figures": key_figures(report),
        "plot": _plot(report),
        "sheet": png_uri(sheet.read_bytes()) if sheet.is_file() else "",
        "href": report_link(out.parent, report.run.folder.resolve()),
    }


def _plot(report: Report) -> str:
    """Seconds of each stage for videos; output over time for texts."""
    timed = report.run.timed
    if report.run.workload.unit == "tokens":
        return token_plots.throughput_svg(timed) if any(r.num_units for r in timed if r.status == "done") else ""
    stages = {k.removeprefix("stage_"): f["value"] for k, f in report.data["figures"].items() if k.startswith("stage_")}
    return plots.stages_svg(stages) if stages else ""
