"""Videos from a server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pipelines.endpoint.pipeline import Endpoint
from pipelines.models.response_check import ResponseCheck
from tests.pipelines.endpoint.fault_server import ask
from workloads.run_folder.media import write_video


def test_a_video_that_failed_or_cannot_be_read_is_an_error(loaded: Callable[..., Endpoint], tmp_path: Any) -> None:
    (polled,) = ask(loaded(api="videos", poll_s=0.01), "x")
    assert "/v1/videos/v1: the video is 'failed': out of memory" in str(polled.error)
    (unread,) = ask(loaded(api="video_generations"), "/etc/hostname")
    assert "name the folder that the server writes to" in str(unread.error)
    (outside,) = ask(loaded(api="video_generations", video_folder=str(tmp_path)), f"{tmp_path}/../secret.mp4")
    assert "outside of video_folder" in str(outside.error)


def test_a_video_of_another_size_is_named_and_one_that_was_cut_off_is_an_error(loaded: Callable[..., Endpoint], tmp_path: Any) -> None:
    """Seventeen frames of 832 x 480 are requested; the server writes nine of 96 x 54, or a part of the file."""
    write_video(tmp_path / "small.mkv", np.random.default_rng(0).integers(0, 256, (9, 54, 96, 3)).astype(np.uint8), 8)
    content = (tmp_path / "small.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(content[: len(content) * 6 // 10])
    endpoint = loaded(api="video_generations", video_folder=str(tmp_path), num_frames=17, width=832, height=480)
    small, cut = ask(endpoint, str(tmp_path / "small.mkv"), str(tmp_path / "cut.mkv"))
    problem = ResponseCheck(endpoint).size_problem([small])
    assert problem is not None
    assert "'endpoint': 17 frames of 832 x 480 was requested, and the video has 9 frames of 96 x 54 at 8 fps; request what" in problem
    assert "are not a whole video: its header declares 1.12 s" in str(cut.error)
