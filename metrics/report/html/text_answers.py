"""Parts of report.html for answers that are texts: latency and load plots, and the worst answers with their inputs."""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from metrics.base import Run
from metrics.performance.token_latency import first_token_waits, first_tokens_in_service, output_token_times
from metrics.report.figures import headline_names
from metrics.report.html import token_plots
from metrics.report.report import Report

SHOWN_ANSWERS = 100
SHOWN_IMAGES = 4  # of one prompt
THUMB_PIXELS = 192  # the longer side of a thumbnail, at most; it is shown at half of that


def text_plots(report: Report) -> dict[str, str]:
    """SVGs by their names in the template; a plot without records is left out."""
    run = report.run
    timed = run.timed
    if not timed:
        return {}
    limits = {name: float(limit) for name, limit in report.data["limits"].items() if name != "percentile"}
    found = {}
    if waits := _waits(run, limits):
        found["waits_svg"] = token_plots.waits_svg(waits, limits, run.config.load.target_percentile)
    if any(r.num_units for r in timed if r.status == "done"):
        found["throughput_svg"] = token_plots.throughput_svg(timed)
        found["lengths_svg"] = token_plots.lengths_svg(timed)
    if any(r.started_s is not None for r in timed):
        found["occupancy_svg"] = token_plots.occupancy_svg(timed)
    return found


def worst_answers(report: Report) -> list[dict[str, Any]]:
    """Judged answers for the page, at most SHOWN_ANSWERS: failed ones, those with canaries, then by their lowest score."""
    alarms, quality = set(report.data["alarms"]), headline_names([report.run])
    ordered = sorted(report.data["samples"], key=lambda s: _goodness(s, alarms, quality))
    samples = report.run.samples
    return [
        {
            **s,
            "marks": _marks(s, alarms, quality),
            "images": [thumbnail(image) for image in samples[s["sample_index"]].images[:SHOWN_IMAGES]],
        }
        for s in ordered[:SHOWN_ANSWERS]
    ]


def thumbnail(image: bytes) -> str:
    """A data URI of the image, made small; empty where the bytes are missing or no image."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(image)) as opened:
            small = opened.convert("RGB")
        small.thumbnail((THUMB_PIXELS, THUMB_PIXELS))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # what Pillow raises on bad bytes
        return ""
    out = io.BytesIO()
    small.save(out, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def _waits(run: Run, limits: Mapping[str, float]) -> dict[str, list[float]]:
    """Seconds by name, one panel each; a name that can have a limit is a key of `limits`."""
    timed = run.timed
    if run.config.scenario == "offline":
        waits = {"first token in service": first_tokens_in_service(timed), "tpot": output_token_times(timed)}
    else:
        streamed = any(r.first_token_s is not None for r in timed)
        waits = {"ttft": first_token_waits(timed) if streamed else [], "tpot": output_token_times(timed)}
        if "latency" in limits:
            waits["latency"] = [r.latency_s for r in timed]
    return {name: seconds for name, seconds in waits.items() if seconds}


def _goodness(sample: Mapping[str, Any], alarms: Collection[str], quality: Sequence[str]) -> tuple[bool, bool, float, int]:
    """The key by which answers are sorted. `cut_off` alone is ignored unless it fails the run: the limit may be short on purpose."""
    odd = any(name in alarms or name != "cut_off" for name in sample["canaries"])
    lowest = min((sample["scores"][name] for name in quality if name in sample["scores"]), default=1.0)
    return sample["status"] == "done", not odd, lowest, sample["sample_index"]


def _marks(sample: Mapping[str, Any], alarms: Collection[str], quality: Sequence[str]) -> list[tuple[str, str]]:
    """Small labels beside an answer, each with its style: `no` is bad, `is` is neither, empty is good."""
    marks = [("failed", "no")] if sample["status"] == "failed" else []
    marks += [(f"canary: {name}" if name in alarms else name, "no" if name in alarms else "is") for name in sample["canaries"]]
    for name in (n for n in quality if n in sample["scores"]):
        score = sample["scores"][name]
        shown = ("yes" if score else "NO") if name == "exact_match" else f"{score:.2f}"
        marks.append((f"{name.replace('_', ' ')} {shown}", "no" if score < 0.5 else ""))
    if sample["task"]:
        marks.append((str(sample["task"]), "is"))
    if sample["held_out"]:
        marks.append(("held out", "is"))
    if sample["num_units"]:
        marks.append((f"{sample['num_units']} tokens", "is"))
    return marks
