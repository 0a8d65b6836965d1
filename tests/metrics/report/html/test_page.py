"""report.html of video runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from metrics.report.html import page
from metrics.report.report import build_report
from tests.conftest import record
from tests.metrics.conftest import write_run
from workloads.records import Sample
from workloads.run_folder.media import browser_video, read_mp4, write_video


def test_videos_that_would_make_the_page_too_large_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = np.random.default_rng(0).integers(0, 256, (4, 5, 32, 32, 3), np.uint8)
    for number, video in enumerate(videos):
        write_video(tmp_path / f"media/{number}.mkv", video, 8.0)
    records = [record(i, media=f"media/{i}.mkv", num_units=5) for i in range(4)]
    write_run(tmp_path, [Sample(i, f"prompt {i}") for i in range(4)], records, workload="t2v")
    monkeypatch.setattr(page, "CLIPS_BYTES", 2.5 * 4 / 3 * len(browser_video(videos[0], 8.0)))
    content = page.write_html(build_report(tmp_path)).read_text(encoding="utf-8")
    assert content.count("data:video/webm;base64,") == 2
    assert "2 of 4 shown" in content


def test_a_large_video_is_shown_smaller() -> None:
    content = browser_video(np.zeros((3, 600, 900, 3), np.uint8), 8.0)
    shown, _ = read_mp4(content)
    assert shown.shape == (3, 320, 480, 3)
