from __future__ import annotations

import errno
import os
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
    assert writer.unwritten == {"blocked/2.mkv": error}
    assert read_video(tmp_path / "media/3.mkv").shape == video.shape


def test_on_a_full_disk_every_further_video_is_unwritten_and_so_is_one_that_still_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    video = np.zeros((3, 16, 16, 3), np.uint8)
    writer = MediaWriter(tmp_path)
    monkeypatch.setattr("workloads.run_folder.media.write_video", full)
    for number in (1, 2):
        writer.put(f"media/{number}.mkv", video, 8)
    first = "media/1.mkv could not be written: No space left on device"
    assert writer.finish() == first
    assert writer.unwritten == {"media/1.mkv": first, "media/2.mkv": f"media/2.mkv was not written: {first}"}
    writer.put("media/3.mkv", video, 8)  # its thread has ended
    assert writer.unwritten["media/3.mkv"] == "media/3.mkv was not written before its rank ended"


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
