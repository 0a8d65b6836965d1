from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from workloads.run_folder.media import Form, MediaWriter, browser_video, read_video, video_form, write_video


def test_saving_is_lossless(tmp_path: Path) -> None:
    video = np.random.default_rng(0).integers(0, 256, (9, 48, 32, 3)).astype(np.uint8)
    write_video(tmp_path / "a.mkv", video, 8)
    assert np.array_equal(read_video(tmp_path / "a.mkv"), video)
    assert [p.name for p in tmp_path.iterdir()] == ["a.mkv"]


def test_the_background_writer_finishes_everything_and_reports_the_first_error(tmp_path: Path) -> None:
    video = np.zeros((3, 16, 16, 3), np.uint8)
    (tmp_path / "blocked").write_text("", encoding="utf-8")
    writer = MediaWriter(tmp_path)
    for name in ("media/1.mkv", "blocked/2.mkv", "media/3.mkv"):
        writer.put(name, video, 8)
    error = writer.finish()
    assert error is not None
    assert "blocked/2.mkv could not be written" in error
    assert read_video(tmp_path / "media/3.mkv").shape == video.shape


def test_a_damaged_or_missing_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.mkv").write_bytes(b"nothing like a video")
    with pytest.raises(ValueError, match=r"bad\.mkv is not a readable video"):
        read_video(tmp_path / "bad.mkv")
    with pytest.raises(ValueError, match=r"gone\.mkv is missing"):
        read_video(tmp_path / "gone.mkv")


def test_the_browser_gets_a_larger_webm_of_the_same_pictures(tmp_path: Path) -> None:
    video = np.zeros((9, 48, 48, 3), np.uint8)
    video[:, 10:30, 10:30] = (200, 40, 40)
    (tmp_path / "b.webm").write_bytes(browser_video(video, 8))
    back = read_video(tmp_path / "b.webm")
    assert back.shape == (9, 192, 192, 3)
    assert np.abs(back[:, 60:100, 60:100].astype(int) - (200, 40, 40)).max() < 24


def test_a_files_form_is_read_without_its_pictures(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mkv", np.zeros((9, 48, 32, 3), np.uint8), 8)
    assert video_form(tmp_path / "a.mkv") == Form(9, 48, 32, 8.0)
    with pytest.raises(ValueError, match=r"gone\.mkv is missing"):
        video_form(tmp_path / "gone.mkv")
