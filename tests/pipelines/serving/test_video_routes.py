"""Videos over a toy pipeline, as a client sees them."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from aiohttp.test_utils import TestClient
from PIL import Image

from pipelines.toy.i2v import ToyI2V
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


async def _made(client: TestClient[Any, Any], **request: Any) -> dict[str, Any]:
    async with client.post("/v1/videos", **request) as answer:
        job: dict[str, Any] = await answer.json()
    while job["status"] not in ("completed", "failed"):
        job = await (await client.get(f"/v1/videos/{job['id']}")).json()
    return job


def test_videos_are_listed_and_have_pictures(tmp_path: Path) -> None:
    async def three(client: TestClient[Any, Any]) -> tuple[list[str], list[Any], list[Any]]:
        ids = [(await _made(client, json={"prompt": CAPTION, "seed": i}))["id"] for i in range(3)]
        pages = [await (await client.get("/v1/videos", params={"limit": "2"})).json()]
        pages.append(await (await client.get("/v1/videos", params={"limit": "2", "after": pages[0]["last_id"]})).json())
        pictures = [
            await client.get(f"/v1/videos/{ids[0]}/content", params={"variant": v}) for v in ("thumbnail", "spritesheet", "hologram")
        ]
        return ids, pages, [(a.status, a.content_type, await a.read()) for a in pictures]

    ids, (first, second), pictures = with_client(ToyT2V(), three, videos=tmp_path)
    assert [job["id"] for job in first["data"]] == [ids[2], ids[1]]
    assert (first["has_more"], second["has_more"], [job["id"] for job in second["data"]]) == (True, False, [ids[0]])
    (_, kind, thumbnail), (_, _, sheet), (status, _, _) = pictures
    assert (kind, status) == ("image/webp", 400)
    sizes = [Image.open(io.BytesIO(content)).size for content in (thumbnail, sheet)]
    assert sizes[1] == (8 * sizes[0][0], sizes[0][1])


@pytest.mark.feature("serve", "videos from an image")
def test_a_video_begins_with_the_image_that_was_sent(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)).save(file, "PNG")
    pipeline = ToyI2V()
    pipeline.workload = "i2v"
    made = pipeline.generate([Sample(0, CAPTION, images=(file.getvalue(),))], [Query(0, 0, 5)])[0].video_THWC

    async def both_ways(client: TestClient[Any, Any]) -> list[Any]:
        form = aiohttp.FormData({"prompt": CAPTION, "seed": "5"})
        form.add_field("input_reference", file.getvalue(), filename="first.png", content_type="image/png")
        url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
        jobs = [
            await _made(client, data=form),
            await _made(client, json={"prompt": CAPTION, "seed": 5, "input_reference": {"image_url": url}}),
        ]
        videos = [await (await client.get(f"/v1/videos/{job['id']}/content")).read() for job in jobs]
        return [*videos, await post(client, {"prompt": CAPTION}, "/v1/videos")]

    *videos, (status, refused) = with_client(pipeline, both_ways, videos=tmp_path)
    for content in videos:
        np.testing.assert_array_equal(read_mp4(content)[0], made)
    assert (status, refused["error"]["param"]) == (400, "input_reference")
