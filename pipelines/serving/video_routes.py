"""Videos over an engine: /v1/videos/generations, which returns the video, and /v1/videos, which is polled until it is done.

Videos are lossless MP4 files (H.264 of RGB frames), so a client scores exactly the pipeline's frames.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from pipelines.base import Response
from pipelines.serving.engine import Question
from pipelines.serving.errors import BadRequestError
from pipelines.serving.request_bodies import check_fields, check_model, read_seed
from pipelines.serving.state import ServerState
from pipelines.serving.text_routes import answer_events, json_body
from workloads.run_folder.media import mp4_of

SETTINGS = ("negative_prompt", "num_frames", "fps", "num_inference_steps", "guidance_scale", "guidance_scale_2", "max_sequence_length")
OWN = ("model", "prompt", "seed", "size", "seconds", "user")


@dataclass
class Job:
    """A requested video. inference_s: time in the engine, with its queue."""

    id: str
    created: int
    status: str = "queued"
    file: Path | None = None
    inference_s: float = 0.0
    error: BadRequestError | None = None
    task: asyncio.Task[None] | None = field(default=None, repr=False)


class VideoRoutes:
    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._jobs: dict[str, Job] = {}

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/videos/generations", self.generate),
            web.post("/v1/videos", self.submit),
            web.get("/v1/videos/{id}", self.status),
            web.get("/v1/videos/{id}/content", self.content),
            web.delete("/v1/videos/{id}", self.delete),
        ]

    async def generate(self, request: web.Request) -> web.Response:
        body = await json_body(request)
        question = self._read(body, ("response_format", "output_format"))
        kind = body.get("response_format") or "video_bytes"
        if kind not in ("video_bytes", "video_path"):
            raise BadRequestError(f"response_format is {kind!r:.80}; known: video_bytes, video_path", "response_format")
        if body.get("output_format") not in (None, "auto", "mp4"):
            raise BadRequestError(f"output_format is {body['output_format']!r:.80}; videos are mp4", "output_format")
        job = Job(f"video_{uuid.uuid4().hex}", int(time.time()))
        await self._make(job, question)
        if job.error is not None or job.file is None:
            raise job.error or BadRequestError("the engine gave no video", status=500)
        if kind == "video_path":
            return web.json_response({"video_id": job.id, "video_path": str(job.file.resolve())})
        content = base64.b64encode(await asyncio.to_thread(job.file.read_bytes)).decode()
        job.file.unlink()
        return web.json_response({"video_id": job.id, "video_bytes": content})

    async def submit(self, request: web.Request) -> web.Response:
        if request.content_type == "application/json":
            body = await json_body(request)
        else:
            body = {name: _number(str(value)) if name != "prompt" else str(value) for name, value in (await request.post()).items()}
        question = self._read(body, ())
        job = Job(f"video_{uuid.uuid4().hex}", int(time.time()))
        self._jobs[job.id] = job
        job.task = asyncio.create_task(self._make(job, question))
        return web.json_response(self._describe(job))

    async def status(self, request: web.Request) -> web.Response:
        return web.json_response(self._describe(self._job(request)))

    async def content(self, request: web.Request) -> web.StreamResponse:
        job = self._job(request)
        if job.file is None:
            raise BadRequestError(f"video {job.id!r} is {job.status}; wait until it is completed", code="not_ready", status=404)
        return web.FileResponse(job.file, headers={"Content-Type": "video/mp4"})

    async def delete(self, request: web.Request) -> web.Response:
        job = self._jobs.pop(self._job(request).id)
        if job.task is not None:
            job.task.cancel()
        if job.file is not None:
            job.file.unlink(missing_ok=True)
        return web.json_response({"id": job.id, "object": "video.deleted", "deleted": True})

    def _read(self, body: Mapping[str, Any], more: tuple[str, ...]) -> Question:
        check_fields(body, (*OWN, *SETTINGS, *more))
        check_model(body, self._state.model)
        prompt = body.get("prompt")
        if not isinstance(prompt, str) or not prompt:
            raise BadRequestError("give a prompt, a text", "prompt")
        self._check_settings(body)
        return Question(prompt, read_seed(body))

    def _check_settings(self, body: Mapping[str, Any]) -> None:
        """Settings are the pipeline's; a request may only repeat the effective ones."""
        pipeline = self._state.pipeline
        width, height = getattr(pipeline, "width", None), getattr(pipeline, "height", None)
        frames, fps = getattr(pipeline, "num_frames", None), getattr(pipeline, "fps", None)
        effective = {name: getattr(pipeline, name, None) for name in SETTINGS}
        effective["size"] = f"{width}x{height}" if width and height else None
        effective["seconds"] = int(frames / fps) if frames and fps else None
        for name, value in effective.items():
            if body.get(name) is not None and body[name] != value and str(body[name]) != str(value):
                shown = "its own" if value is None else repr(value)
                option = (
                    "pipeline.width, pipeline.height"
                    if name == "size"
                    else "pipeline.num_frames"
                    if name == "seconds"
                    else f"pipeline.{name}"
                )
                raise BadRequestError(
                    f"{name} is {body[name]!r:.80}, but this server has {shown} for all; leave it out, or start it with --set {option}=..",
                    name,
                )

    async def _make(self, job: Job, question: Question) -> None:
        began = time.perf_counter()
        try:
            job.status = "in_progress"
            async with contextlib.aclosing(answer_events(self._state.engine, question)) as events:
                response = [event.response async for event in events][-1]
            job.inference_s = time.perf_counter() - began
            job.file = await asyncio.to_thread(self._write, job, response)
            job.status = "completed"
        except BadRequestError as error:
            job.status, job.error = "failed", error

    def _write(self, job: Job, response: Response | None) -> Path:
        if response is None or response.video_THWC is None:
            raise BadRequestError("the engine gave no video", code="engine_failed", status=500)
        file = self._state.videos / f"{job.id}.mp4"
        file.write_bytes(mp4_of(response.video_THWC, response.fps))
        return file

    def _job(self, request: web.Request) -> Job:
        job = self._jobs.get(request.match_info["id"])
        if job is None:
            raise BadRequestError(f"there is no video {request.match_info['id']!r}, or it was deleted", code="not_found", status=404)
        return job

    def _describe(self, job: Job) -> dict[str, Any]:
        done = job.status == "completed"
        error = {"code": job.error.code, "message": str(job.error)} if job.error else None
        return {
            "id": job.id,
            "object": "video",
            "model": self._state.model,
            "status": job.status,
            "progress": 100 if done else 0,
            "created_at": job.created,
            "inference_time_s": round(job.inference_s, 6) if done else None,
            "error": error,
        }


def _number(text: str) -> Any:
    """The value of a form's field, which is sent as text."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text
