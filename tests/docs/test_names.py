"""What the documents name exists: links and their sections, paths, presets and modules."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGES = sorted(
    page for pattern in ("*.md", "docs/*.md", "docker/*.md", "configs/*/*.md", "pipelines/embedded/*/*.md") for page in ROOT.glob(pattern)
)
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)")
FOLDERS = "configs|workloads|pipelines|metrics|tests|benchmarks|docs|docker|examples"
PATH = re.compile(rf"(?<![\w./-])(?:{FOLDERS})/[\w./*-]*[\w/]")
PRESET = re.compile(r"(?<![\w./-])(?:llm|vlm|t2v|i2v)/[\w.-]*\w")
MODULE = re.compile(r"-m ((?:pipelines|metrics|benchmarks|tests)[\w.]*)")
SOURCES = (*(ROOT.glob("*.py")), *(file for folder in FOLDERS.split("|") for file in (ROOT / folder).rglob("*.*")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    presets = {str(file.relative_to(ROOT / "configs/presets").with_suffix("")) for file in (ROOT / "configs/presets").rglob("*.yaml")}
    missing = [f"link {file}#{section}" for file, section in LINK.findall(text) if not _leads_somewhere(page, file, section)]
    missing += [path for path in PATH.findall(text) if "DEVICE" not in path and not any(ROOT.glob(path.rstrip("/")))]
    missing += [f"preset {name}" for name in PRESET.findall(text) if name not in presets]
    missing += [f"module {name}" for name in MODULE.findall(text) if importlib.util.find_spec(name) is None]
    assert missing == []


def test_every_page_that_the_sources_name_exists() -> None:
    named = {
        (name, file.relative_to(ROOT))
        for file in SOURCES
        if file.suffix in {".py", ".yaml", ".sh", ".Dockerfile"}
        for name in re.findall(r"\bdocs/[\w-]+\.md", file.read_text(encoding="utf-8"))
    }
    assert [f"{name} in {file}" for name, file in sorted(named) if not (ROOT / name).is_file()] == []


def _leads_somewhere(page: Path, file: str, section: str) -> bool:
    target = page.parent / file if file else page
    return target.exists() and (not section or section in _sections(target.read_text(encoding="utf-8")))


def _sections(text: str) -> list[str]:
    """Anchors of the headings, as GitHub makes them."""
    return [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE)]
