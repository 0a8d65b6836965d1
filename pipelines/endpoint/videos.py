"""Videos from a server: by /v1/videos/generations, which returns the video, or by /v1/videos, which is polled until it is done."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from pipelines.base import Response
from pipelines.endpoint.client import Exchange, QueryError, check_status, error_text, read_json
from workloads.run_folder.media import read_mp4


@dataclass(frozen=True)
class VideoApi:
    """fixed: fields of every request. polls: use /v1/videos. folder: of the files that the server names."""

    fixed: Mapping[str, Any]
    polls: bool
    poll_s: float
    folder: str | None

    async def __call__(self, exchange: Exchange) -> Response:
        began = time.perf_counter()
        content, ready = await (self._poll(exchange) if self.polls else self._block(exchange))
        received = time.perf_counter()
        try:
            video_THWC, fps = await asyncio.to_thread(read_mp4, content)
        except ValueError as error:
            raise QueryError(f"{exchange.url}: {error}") from None
        stages = {"generate": ready - began, "download": received - ready, "client_decode": time.perf_counter() - received}
        return Response(video_THWC=video_THWC, fps=fps, num_units=len(video_THWC), stages=stages)

    async def _block(self, exchange: Exchange) -> tuple[bytes, float]:
        """The file, and when its response arrived."""
        url = f"{exchange.url}/v1/videos/generations"
        form = {"response_format": "video_path" if self.folder else "video_bytes"}
        body = msgspec.json.encode({"prompt": exchange.sample.prompt, "seed": exchange.query.seed, **form, **self.fixed})
        headers = {"Content-Type": "application/json"}
        async with exchange.session.post(url, data=body, headers=headers, allow_redirects=False) as answer:
            ready = time.perf_counter()
            if answer.content_type.startswith("video/"):
                await check_status(answer, url)
                return await answer.read(), ready
            reply = await read_json(answer, url)
        if isinstance(coded := reply.get("video_bytes"), str):
            try:
                return base64.b64decode(coded, validate=True), ready
            except ValueError as error:
                raise QueryError(f"{url}: its video_bytes are not base64: {error}") from None
        if isinstance(path := reply.get("video_path"), str):
            return await asyncio.to_thread(self._read, path, url), ready
        raise QueryError(f"{url}: the answer has neither video_bytes nor video_path, but {', '.join(sorted(reply)) or 'nothing'}")

    async def _poll(self, exchange: Exchange) -> tuple[bytes, float]:
        """The file, and when the server reported that it is complete."""
        url = f"{exchange.url}/v1/videos"
        form = aiohttp.FormData({"prompt": exchange.sample.prompt, "seed": str(exchange.query.seed)}, default_to_multipart=True)
        for name, value in self.fixed.items():
            form.add_field(name, value if isinstance(value, str) else msgspec.json.encode(value).decode())
        async with exchange.session.post(url, data=form, allow_redirects=False) as answer:
            job = await read_json(answer, url)
        one = f"{url}/{job.get('id')}"
        while job.get("status") != "completed":
            if job.get("status") not in ("queued", "in_progress", "processing"):
                raise QueryError(f"{one}: the video is {job.get('status')!r}: {error_text(job)}")
            await asyncio.sleep(self.poll_s)
            async with exchange.session.get(one, allow_redirects=False) as answer:
                job = await read_json(answer, one)
        ready = time.perf_counter()
        async with exchange.session.get(f"{one}/content", allow_redirects=False) as answer:
            await check_status(answer, f"{one}/content")
            return await answer.read(), ready

    def _read(self, path: str, url: str) -> bytes:
        """Read only from video_folder: a server must not get at the other files of this machine."""
        if self.folder is None:
            raise QueryError(f"{url}: the answer is a path; name the folder that the server writes to: --set pipeline.video_folder=DIR")
        file = Path(path).resolve()
        if not file.is_relative_to(Path(self.folder).resolve()):
            raise QueryError(f"{url}: the answer is a path outside of video_folder {self.folder!r}")
        try:
            return file.read_bytes()
        except OSError as error:
            raise QueryError(f"{url}: its video in video_folder cannot be read: {error.strerror}") from None
