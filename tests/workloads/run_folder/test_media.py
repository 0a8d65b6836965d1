from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from workloads.run_folder.media import Form, MediaWriter, browser_video, mp4_of, read_mp4, read_video, video_form, write_video


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


def moving(num_frames: int) -> NDArray[np.uint8]:
    """With enough texture that its files are longer than their headers."""
    grain = np.random.default_rng(0).integers(0, 256, (num_frames, 48, 64, 3))
    return np.asarray(grain, np.uint8)


def encoded(folder: Path, codec: str, name: str, **options: str) -> bytes:
    """A file as servers send it: with B-frames, and with its index first where `options` ask for that."""
    path = folder / name
    with av.open(str(path), "w", options=options) as container:
        stream: Any = container.add_stream(codec, rate=16)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for frame in moving(33):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path.read_bytes()


@pytest.mark.parametrize(
    ("codec", "name", "options"),
    [
        ("libx264", "a.mp4", {"movflags": "faststart"}),
        ("libx264", "a.mp4", {"movflags": "frag_keyframe+empty_moov"}),
        ("libx264", "a.mp4", {}),
        ("libx264", "a.mkv", {}),
        ("libx264", "a.ts", {}),
        ("libvpx-vp9", "a.webm", {}),
        ("mpeg4", "a.avi", {}),
    ],
)
def test_a_received_file_that_was_cut_off_is_no_video(tmp_path: Path, codec: str, name: str, options: dict[str, str]) -> None:
    content = encoded(tmp_path, codec, name, **options)
    video, fps = read_mp4(content)
    assert (len(video), fps) == (33, 16)
    for share in (0.6, 0.9):
        with pytest.raises(ValueError, match=r"not a whole video|not a readable video"):
            read_mp4(content[: int(share * len(content))])


def test_a_saved_file_that_was_cut_off_is_no_video(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mkv", moving(20), 8)
    content = (tmp_path / "a.mkv").read_bytes()
    (tmp_path / "a.mkv").write_bytes(content[: len(content) * 6 // 10])
    with pytest.raises(ValueError, match=r"a\.mkv is not a whole video: its header declares 2\.5 s, and its 1\d frames last 1\.\d+ s"):
        read_video(tmp_path / "a.mkv")


@pytest.mark.parametrize("fps", [1, 7.5, 24000 / 1001, 60, 240])
@pytest.mark.parametrize("num_frames", [1, 2, 49])
def test_a_whole_file_is_whole_at_every_frame_rate(tmp_path: Path, fps: float, num_frames: int) -> None:
    write_video(tmp_path / "a.mkv", moving(num_frames), fps)
    assert len(read_video(tmp_path / "a.mkv")) == num_frames
    assert len(read_mp4(mp4_of(moving(num_frames), fps))[0]) == num_frames


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
