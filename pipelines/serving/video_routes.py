"""Videos over an engine: /v1/videos/generations, which returns the video, and /v1/videos, which is polled until it is done.

Videos are lossless MP4 files (H.264 of RGB frames), so a client scores exactly the pipeline's frames.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from pipelines.base import Response
from pipelines.serving.bodies.video import read_video_question, video_body
from pipelines.serving.engine import Question
from pipelines.serving.errors import BadRequestError
from pipelines.serving.observation import Observation
from pipelines.serving.state import OBSERVATION, WARNINGS, ServerState
from pipelines.serving.text_routes import answer_events
from pipelines.serving.video_pictures import PICTURES, TYPE, picture_of
from workloads.run_folder.media import mp4_of

MOST_LISTED = 100  # jobs on a page of GET /v1/videos, and OpenAI's own limit


@dataclass
class Job:
    """A requested video. inference_s: time in the engine, with its queue. completed: Unix time."""

    id: str
    created: int
    prompt: str
    observation: Observation = field(repr=False)
    status: str = "queued"
    file: Path | None = None
    inference_s: float = 0.0
    completed: int | None = None
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
            web.get("/v1/videos", self.list),
            web.get("/v1/videos/{id}", self.status),
            web.get("/v1/videos/{id}/content", self.content),
            web.delete("/v1/videos/{id}", self.delete),
        ]

    async def generate(self, request: web.Request) -> web.Response:
        body = await video_body(request)
        question = self._read(request, body, ("response_format", "output_format"))
        kind = body.get("response_format") or "video_bytes"
        if kind not in ("video_bytes", "video_path"):
            raise BadRequestError(f"response_format is {kind!r:.80}; known: video_bytes, video_path", "response_format")
        if body.get("output_format") not in (None, "auto", "mp4"):
            raise BadRequestError(f"output_format is {body['output_format']!r:.80}; videos are mp4", "output_format")
        job = self._job_of(request, question)
        await self._make(job, question)
        if job.error is not None or job.file is None:
            raise job.error or BadRequestError("the engine gave no video", status=500)
        if kind == "video_path":
            return web.json_response({"video_id": job.id, "video_path": str(job.file.resolve())})
        content = base64.b64encode(await asyncio.to_thread(job.file.read_bytes)).decode()
        job.file.unlink()
        return web.json_response({"video_id": job.id, "video_bytes": content})

    async def submit(self, request: web.Request) -> web.Response:
        question = self._read(request, await video_body(request), ())
        job = self._job_of(request, question)
        job.observation.goes_on = True
        self._jobs[job.id] = job
        job.task = asyncio.create_task(self._make_later(job, question))
        return web.json_response(self._describe(job))

    async def list(self, request: web.Request) -> web.Response:
        """Jobs that were submitted and not deleted, the newest first. limit, after, order: as in OpenAI's interface."""
        query = request.query
        limit, order, after = query.get("limit", "20"), query.get("order", "desc"), query.get("after")
        if not limit.isdecimal() or not 1 <= int(limit) <= MOST_LISTED:
            raise BadRequestError(f"limit is {limit!r:.80}; give a whole number from 1 to {MOST_LISTED}", "limit")
        if order not in ("asc", "desc"):
            raise BadRequestError(f"order is {order!r:.80}; known: asc, desc", "order")
        jobs = list(self._jobs.values())[:: -1 if order == "desc" else 1]
        if after is not None:
            ids = [job.id for job in jobs]
            jobs = jobs[ids.index(self._find(after).id) + 1 :]
        page = jobs[: int(limit)]
        ends = {"first_id": page[0].id if page else None, "last_id": page[-1].id if page else None}
        return web.json_response({"object": "list", "data": [self._describe(j) for j in page], **ends, "has_more": len(jobs) > len(page)})

    async def status(self, request: web.Request) -> web.Response:
        return web.json_response(self._describe(self._find(request.match_info["id"])))

    async def content(self, request: web.Request) -> web.StreamResponse:
        """The video; with variant=thumbnail its first frame, with variant=spritesheet several of its frames, as a picture."""
        job, variant = self._find(request.match_info["id"]), request.query.get("variant", "video")
        if variant not in ("video", *PICTURES):
            raise BadRequestError(f"variant is {variant!r:.80}; known: video, {', '.join(PICTURES)}", "variant")
        if job.file is None:
            raise BadRequestError(f"video {job.id!r} is {job.status}; wait until it is completed", code="not_ready", status=404)
        if variant == "video":
            return web.FileResponse(job.file, headers={"Content-Type": "video/mp4"})
        return web.Response(body=await asyncio.to_thread(picture_of, job.file, variant), content_type=TYPE)

    async def delete(self, request: web.Request) -> web.Response:
        job = self._jobs.pop(self._find(request.match_info["id"]).id)
        if job.task is not None:
            job.task.cancel()
        if job.file is not None:
            job.file.unlink(missing_ok=True)
        return web.json_response({"id": job.id, "object": "video.deleted", "deleted": True})

    def _read(self, request: web.Request, body: dict[str, Any], more: tuple[str, ...]) -> Question:
        question, request[WARNINGS] = read_video_question(body, self._state.pipeline, self._state.model, more)
        return question

    def _job_of(self, request: web.Request, question: Question) -> Job:
        return Job(f"video_{uuid.uuid4().hex}", int(time.time()), question.prompt, request[OBSERVATION])

    async def _make_later(self, job: Job, question: Question) -> None:
        try:
            await self._make(job, question)
        except asyncio.CancelledError:
            job.observation.end("cancelled")
            raise
        job.observation.end("failed" if job.error else "done", str(job.error) if job.error else None)

    async def _make(self, job: Job, question: Question) -> None:
        began = time.perf_counter()
        try:
            job.status = "in_progress"
            async with contextlib.aclosing(answer_events(self._state.engine, (question,))) as events:
                response = [event.response async for _, event in events][-1]
            job.inference_s = time.perf_counter() - began
            job.file = await asyncio.to_thread(self._write, job, response)
            job.status, job.completed = "completed", int(time.time())
        except BadRequestError as error:
            job.status, job.error = "failed", error

    def _write(self, job: Job, response: Response | None) -> Path:
        if response is None or response.video_THWC is None:
            raise BadRequestError("the engine gave no video", code="engine_failed", status=500)
        file = self._state.videos / f"{job.id}.mp4"
        file.write_bytes(mp4_of(response.video_THWC, response.fps))
        return file

    def _find(self, job_id: str) -> Job:
        job = self._jobs.get(job_id)
        if job is None:
            raise BadRequestError(f"there is no video {job_id!r}, or it was deleted", code="not_found", status=404)
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
            "completed_at": job.completed,
            "prompt": job.prompt,
            "inference_time_s": round(job.inference_s, 6) if done else None,
            "error": error,
        }
