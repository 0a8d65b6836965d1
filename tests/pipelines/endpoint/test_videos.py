"""Videos from a server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipelines.endpoint.pipeline import Endpoint
from tests.pipelines.endpoint.fault_server import ask


def test_a_video_that_failed_or_cannot_be_read_is_an_error(loaded: Callable[..., Endpoint], tmp_path: Any) -> None:
    (polled,) = ask(loaded(api="videos", poll_s=0.01), "x")
    assert "/v1/videos/v1: the video is 'failed': out of memory" in str(polled.error)
    (unread,) = ask(loaded(api="video_generations"), "/etc/hostname")
    assert "name the folder that the server writes to" in str(unread.error)
    (outside,) = ask(loaded(api="video_generations", video_folder=str(tmp_path)), f"{tmp_path}/../secret.mp4")
    assert "outside of video_folder" in str(outside.error)
