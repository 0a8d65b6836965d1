"""report.html: the report to read, one file without links to others or to the network."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from metrics.performance.latency import query_latencies
from metrics.performance.speed import speed_remark
from metrics.report.figures import heading, headline_names, metric_classes
from metrics.report.html import plots, token_plots
from metrics.report.html.render import png_uri, render, report_link
from metrics.report.html.text_answers import text_plots, thumbnail, worst_answers
from metrics.report.report import Report
from workloads.run_folder.files import write_text
from workloads.run_folder.media import browser_video, png_of, video_form
from workloads.run_folder.search import read_search

SHEET_CLIPS, SHEET_FRAMES = 12, 5  # rows and columns of the contact sheet
SHEET_PIXELS = 96  # a frame's width on it
CLIPS_BYTES = 40_000_000  # of all videos in the page, which a browser holds in memory

HEADINGS = ("Speed", "Quality", "Answers and load", "Cost")  # in this order; then those of plugins, and Other


def write_html(report: Report) -> Path:
    """Write report.html beside report.json, and contact_sheet.png where the run made videos."""
    path = report.run.folder / "report.html"
    write_text(path, render("report.html.j2", _page(report)))
    return path


def key_figures(report: Report) -> list[tuple[str, Any]]:
    """The figures on cards, by name: speed, quality, cost."""
    noun, unit = report.run.workload.noun, report.run.workload.unit
    texts = unit == "tokens"
    wanted: list[tuple[str, ...]] = [(f"{noun}_per_s",), (f"{unit}_per_s",)]
    quality, whole, memory = headline_names([report.run]), ("latency_p90", "service_mean"), ("peak_device_memory", "peak_host_memory")
    wanted += [("goodput_share",), ("ttft_p90", "ttft_mean"), ("tpot_p90", "tpot_mean")] if texts else []
    wanted += [(name,) for name in ((*quality, *whole, *memory) if texts else (*whole, *quality, *memory))]
    known = {name: figure for name, figure in report.data["figures"].items() if figure["value"] is not None}
    names = [next((name for name in either if name in known), None) for either in wanted]
    return [(name, known[name]) for name in names if name is not None][: 8 if texts else 5]


def _page(report: Report) -> dict[str, Any]:
    run, data = report.run, report.data
    timed = run.timed if data["figures"] else []  # a brief report has none, and no plots
    offline = run.config.scenario == "offline"
    latencies = (
        [r.completed_s - r.started_s for r in timed if r.started_s is not None] if offline else query_latencies(timed, run.config.scenario)
    )
    stages = {k.removeprefix("stage_"): f["value"] for k, f in data["figures"].items() if k.startswith("stage_")}
    texts = run.workload.unit == "tokens"
    return {
        "r": data,
        "speed_remark": speed_remark(run) if data["figures"] else "",
        "config": run.config.model_dump(),
        "figures": _grouped(report),
        "key_figures": key_figures(report),
        "latency_svg": plots.latency_svg(latencies, "time in service" if offline else "latency") if latencies else "",
        "stages_svg": plots.stages_svg(stages) if stages else "",
        "timeline_svg": plots.timeline_svg(timed) if not texts and any(r.started_s is not None for r in timed) else "",
        "sheet": _contact_sheet(report),
        "clips": _clips(report),
        "num_videos": len(_videos(report)),
        "search": _search(report),
        **({"answers": worst_answers(report), **text_plots(report)} if texts else {}),
    }


def _search(report: Report) -> dict[str, Any] | None:
    search = read_search(report.run.folder)
    if search is None:
        return None
    probes = [{**p, "href": report_link(report.run.folder, Path(p["folder"]))} for p in msgspec.to_builtins(search.probes)]
    limits = search.effective_limits
    svg = token_plots.search_svg(probes, limits, search.max_valid_qps) if probes and limits else ""
    return {"max_valid_qps": search.max_valid_qps, "confirmed": search.confirmed, "limits": limits, "probes": probes, "svg": svg}


def _grouped(report: Report) -> dict[str, dict[str, Any]]:
    """Figures under their headings."""
    groups: dict[str, dict[str, Any]] = {title: {} for title in HEADINGS}
    other: dict[str, Any] = {}
    metrics = metric_classes(report.run)
    for name, figure in report.data["figures"].items():
        title = heading(name, metrics)
        (other if title is None else groups.setdefault(title, {}))[name] = figure
    return {title: figures for title, figures in (*groups.items(), ("Other", other)) if figures}


def _clips(report: Report) -> list[dict[str, Any]]:
    """Videos to play, the worst first; at most `report_videos`, and no more than fit into CLIPS_BYTES."""
    shown: list[dict[str, Any]] = []
    room = CLIPS_BYTES
    for sample in _videos(report)[: report.run.config.report_videos]:
        video = _frames(report, sample)
        if video is not None:
            content = base64.b64encode(browser_video(video, video_form(report.run.folder / str(sample["media"])).fps)).decode()
            if (room := room - len(content)) < 0:
                break
            marks = {k.removeprefix("world_"): v > 0 for k, v in sample["scores"].items() if k.startswith("world_") and k != "world_score"}
            image = next(iter(report.run.samples[sample["sample_index"]].images), None)
            given = None if image is None else thumbnail(image)
            shown.append({**sample, "src": f"data:video/webm;base64,{content}", "marks": marks, "given": given})
    return shown


def _contact_sheet(report: Report) -> str:
    """Write contact_sheet.png, one row per video with frames from first to last. Returns a data URI; empty where the run made no videos."""
    rows = []
    for sample in sorted(_videos(report), key=lambda s: s["sample_index"])[:SHEET_CLIPS]:
        video = _frames(report, sample)
        if video is not None:
            rows.append(contact_row(video))
    if not rows or len({row.shape for row in rows}) > 1:
        return ""
    half = -(-len(rows) // 2)
    columns = [np.concatenate(part) for part in (rows[:half], rows[half:]) if part]
    tall = max(c.shape[0] for c in columns)
    gap = np.full((tall, 12, 3), 255, np.uint8)
    padded = [np.pad(c, ((0, tall - c.shape[0]), (0, 0), (0, 0)), constant_values=255) for c in columns]
    sheet = padded[0] if len(padded) == 1 else np.concatenate([padded[0], gap, padded[1]], axis=1)
    content = png_of(sheet)
    (report.run.folder / "contact_sheet.png").write_bytes(content)
    return png_uri(content)


def contact_row(video_THWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """SHEET_FRAMES frames spread evenly over the video, side by side, about SHEET_PIXELS wide each."""
    import cv2

    index = np.linspace(0, len(video_THWC) - 1, SHEET_FRAMES).round().astype(int)
    height, width = video_THWC.shape[1:3]
    size = (SHEET_PIXELS, round(SHEET_PIXELS * height / width))
    how = cv2.INTER_NEAREST if width < SHEET_PIXELS else cv2.INTER_AREA
    frames = [np.pad(cv2.resize(video_THWC[i], size, interpolation=how), ((1, 1), (1, 1), (0, 0)), constant_values=255) for i in index]
    return np.concatenate(frames, axis=1)


def _videos(report: Report) -> list[dict[str, Any]]:
    found = [s for s in report.data["samples"] if s["media"]]
    return sorted(found, key=lambda s: (not s["canaries"], s["scores"].get("world_score", 1.0), s["sample_index"]))


def _frames(report: Report, sample: Mapping[str, Any]) -> NDArray[np.uint8] | None:
    record = next(r for r in report.run.judged if r.query_id == sample["query_id"])
    try:
        return report.run.video(record)
    except ValueError:
        return None
