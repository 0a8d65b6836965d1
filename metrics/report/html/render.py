"""Pages of HTML from templates, and how they write figures, names and links."""

from __future__ import annotations

import base64
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

WORDS = {"ttft": "TTFT", "tpot": "TPOT", "itl": "inter-token latency", "rouge": "ROUGE", "psnr": "PSNR", "f1": "F1", "l": "L"}


def render(template: str, page: Mapping[str, Any]) -> str:
    """A template of templates/, filled in; all values are escaped."""
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "label": label}
    return environment.get_template(template).render(**page)


def number(value: float | None, unit: str = "") -> str:
    """A figure with its unit, rounded for reading."""
    if value is None:
        return "-"
    if unit == "bytes":
        return f"{value / 2**20:,.0f} MiB" if value < 2**30 else f"{value / 2**30:,.2f} GiB"
    digits = 3 if value == 0 or abs(value) >= 1000 else max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{min(digits, 4)}f}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{text} {unit}".strip()


def label(name: str) -> str:
    """A figure's name in words."""
    return " ".join(WORDS.get(word, word) for word in name.replace("_per_s", "_per_second").split("_"))


def report_link(start: Path, run: Path) -> str:
    """Link from a page in `start` to the report of a run; empty where there is none. A relative `run` counts from `start`."""
    report = start / run / "report.html"
    return quote(os.path.relpath(report, start)) if run.name and report.is_file() else ""


def png_uri(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()
