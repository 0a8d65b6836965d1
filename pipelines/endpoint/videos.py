"""Videos from a server: by /v1/videos/generations, which returns the video, or by /v1/videos, which is polled until it is done."""

from __future__ import annotations

import asyncio
import base64
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from configs.decode import reading
from pipelines.base import Response
from pipelines.endpoint.connections import Fetched
from pipelines.endpoint.errors import QueryError, check_status, error_text
from pipelines.endpoint.exchange import Exchange
from workloads.run_folder.media import read_mp4


@dataclass(frozen=True)
class VideoApi:
    """fixed: fields of every request. polls: use /v1/videos. folder: of the files that the server names."""

    fixed: Mapping[str, Any]
    polls: bool
    poll_s: float
    folder: str | None

    def start(self, exchange: Exchange) -> Callable[[], None]:
        """Send a query; the function gives it up."""
        task = exchange.server.loop.create_task(self._answer(exchange))
        task.add_done_callback(lambda task: None if task.cancelled() else exchange.on_end(_Answer(task)))

        def give_up() -> None:
            task.cancel()

        return give_up

    async def _answer(self, exchange: Exchange) -> Response:
        began = time.perf_counter()
        content, ready = await (self._poll(exchange) if self.polls else self._block(exchange))
        received = time.perf_counter()
        lag_s = exchange.lag_s(received)
        try:
            video_THWC, fps = await asyncio.to_thread(read_mp4, content)
        except ValueError as error:
            raise QueryError(f"{exchange.server.url}: {error}") from None
        stages = {"generate": ready - began, "download": received - ready, "client_decode": time.perf_counter() - received}
        return Response(video_THWC=video_THWC, fps=fps, num_units=len(video_THWC), stages=stages, client_lag_s=lag_s)

    async def _block(self, exchange: Exchange) -> tuple[bytes, float]:
        """The file, and when its response arrived."""
        server, path = exchange.server, "/v1/videos/generations"
        form = {"response_format": "video_path" if self.folder else "video_bytes"}
        body = msgspec.json.encode({"prompt": exchange.sample.prompt, "seed": exchange.query.seed, **form, **self.fixed})
        head, content, ready = await server.fetch(server.head("POST", path, "Content-Type: application/json"), body)
        url = server.url + path
        if head.content_type.startswith("video/"):
            check_status(head, content, url)
            return content, ready
        reply = read_json(Fetched(head, content, ready), url)
        if isinstance(coded := reply.get("video_bytes"), str):
            try:
                return base64.b64decode(coded, validate=True), ready
            except ValueError as error:
                raise QueryError(f"{url}: its video_bytes are not base64: {error}") from None
        if isinstance(file := reply.get("video_path"), str):
            return await asyncio.to_thread(self._read, file, url), ready
        raise QueryError(f"{url}: the answer has neither video_bytes nor video_path, but {', '.join(sorted(reply)) or 'nothing'}")

    async def _poll(self, exchange: Exchange) -> tuple[bytes, float]:
        """The file, and when the server reported that it is complete."""
        server, path = exchange.server, "/v1/videos"
        url = server.url + path
        kind, body = multipart({"prompt": exchange.sample.prompt, "seed": str(exchange.query.seed), **self.fixed})
        job = read_json(await server.fetch(server.head("POST", path, f"Content-Type: {kind}"), body), url)
        name = str(job.get("id"))
        if not name.isascii() or not name.isprintable() or " " in name:
            raise QueryError(f"{url}: the answer has the id {name[:80]!r}, which cannot be part of a url")
        one = f"{path}/{name}"
        while job.get("status") != "completed":
            if job.get("status") not in ("queued", "in_progress", "processing"):
                raise QueryError(f"{server.url}{one}: the video is {job.get('status')!r}: {error_text(job)}")
            await asyncio.sleep(self.poll_s)
            job = read_json(await server.fetch(server.head("GET", one)), server.url + one)
        ready = time.perf_counter()
        head, content, _ = await server.fetch(server.head("GET", f"{one}/content"))
        check_status(head, content, f"{server.url}{one}/content")
        return content, ready

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


@dataclass(frozen=True)
class _Answer:
    """A task that has ended."""

    task: asyncio.Task[Response]

    def response(self) -> Response:
        return self.task.result()


def read_json(fetched: Fetched, url: str) -> dict[str, Any]:
    check_status(fetched.head, fetched.content, url)
    with reading(f"{url}: the answer of status {fetched.head.status}", "it is not a JSON object", QueryError):
        return msgspec.json.decode(fetched.content, type=dict[str, Any])


def multipart(fields: Mapping[str, Any]) -> tuple[str, bytes]:
    """A form's type and body (RFC 7578). A value that is no text is sent as JSON."""
    boundary = secrets.token_hex(16)
    parts = []
    for name, value in fields.items():
        text = value.encode() if isinstance(value, str) else msgspec.json.encode(value)
        quoted = name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
        parts.append(f'--{boundary}\r\nContent-Disposition: form-data; name="{quoted}"\r\n\r\n'.encode() + text + b"\r\n")
    return f"multipart/form-data; boundary={boundary}", b"".join(parts) + f"--{boundary}--\r\n".encode()
