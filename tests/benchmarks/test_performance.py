"""docs/performance.md is what the latest stored results say, and leaves none of them out."""

from __future__ import annotations

from benchmarks.outcome import RESULTS
from benchmarks.performance import PAGE, fill, sections
from benchmarks.trend import histories


def test_the_page_is_current() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == fill(page, histories()), "run python -m benchmarks.performance"


def test_every_stored_history_has_a_section() -> None:
    assert {path.stem for path in RESULTS.glob("*.jsonl")} <= set(sections(PAGE.read_text(encoding="utf-8")))
