from __future__ import annotations

from pathlib import Path

from tests.conftest import QUICK, SuiteRun, last_line


def test_combine_writes_one_page_and_ends_with_a_json_line(suite: SuiteRun, tmp_path: Path) -> None:
    assert suite("--config", "llm/toy", "--output", "run", *QUICK).returncode == 0
    done = suite("combine", "run", "--output", "page.html")
    assert last_line(done) == {"combined": str((tmp_path / "page.html").resolve()), "runs": [str((tmp_path / "run").resolve())]}
    assert "run/report.html" in (tmp_path / "page.html").read_text(encoding="utf-8")
