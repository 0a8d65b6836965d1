"""Videos over a toy pipeline, as a client sees them."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp.test_utils import TestClient

from pipelines.toy.t2v import ToyT2V
from tests.pipelines.serving.serving_client import post, with_client
from workloads.records import Query, Sample
from workloads.run_folder.media import read_mp4

CAPTION = "a red disc moves left slowly"


@pytest.mark.feature("serve", "videos, blocking and by submit, poll, download")
@pytest.mark.feature("endpoint", "video servers, blocking and by submit, poll, download")
def test_a_video_is_the_same_by_every_route(tmp_path: Path) -> None:
    made = ToyT2V().generate([Sample(0, CAPTION)], [Query(0, 0, 5)])[0].video_THWC

    async def three_ways(client: TestClient[Any, Any]) -> list[bytes]:
        body, videos = {"prompt": CAPTION, "seed": 5}, []
        _, whole = await post(client, body, "/v1/videos/generations")
        videos.append(base64.b64decode(whole["video_bytes"]))
        _, named = await post(client, body | {"response_format": "video_path"}, "/v1/videos/generations")
        assert Path(named["video_path"]).parent == tmp_path
        videos.append(Path(named["video_path"]).read_bytes())
        async with client.post(
            "/v1/videos", data={name: str(value) for name, value in body.items()}
        ) as answer:  # a form, as OpenAI's client
            job = await answer.json()
        assert job["status"] in ("queued", "in_progress")
        while job["status"] != "completed":
            job = await (await client.get(f"/v1/videos/{job['id']}")).json()
        assert job["inference_time_s"] >= 0
        videos.append(await (await client.get(f"/v1/videos/{job['id']}/content")).read())
        assert (await client.delete(f"/v1/videos/{job['id']}")).status == 200
        assert (await client.get(f"/v1/videos/{job['id']}/content")).status == 404
        return videos

    for content in with_client(ToyT2V(), three_ways, videos=tmp_path):
        video_THWC, fps = read_mp4(content)
        np.testing.assert_array_equal(video_THWC, made)
        assert fps == 8


def test_a_failed_video_has_its_error_and_unsupported_settings_are_refused() -> None:
    async def make_videos(client: TestClient[Any, Any]) -> list[Any]:
        async with client.post("/v1/videos", json={"prompt": CAPTION}) as answer:
            job = await answer.json()
        while job["status"] not in ("completed", "failed"):
            job = await (await client.get(f"/v1/videos/{job['id']}")).json()
        return [job, await post(client, {"prompt": CAPTION, "num_frames": 81}, "/v1/videos/generations")]

    job, (status, reply) = with_client(ToyT2V(fail_every=1), make_videos)
    assert (job["status"], job["error"]["message"]) == ("failed", "toy failure of query 0")
    assert status == 400
    assert "pipeline.num_frames" in reply["error"]["message"]
