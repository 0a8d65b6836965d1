"""A server that fails in the ways that servers do: the prompt names the fault."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from pipelines.base import Response
from pipelines.endpoint.pipeline import Endpoint
from workloads.records import Query, Sample

USAGE = {"prompt_tokens": 5, "completion_tokens": 4}
STRANGE_USAGE: dict[str, Any] = {
    "usage 0": {"prompt_tokens": 0, "completion_tokens": 0},
    "usage -1": {"prompt_tokens": -1, "completion_tokens": -1},
    "usage text": {"prompt_tokens": 5, "completion_tokens": "4"},
    "usage x10": {"prompt_tokens": 5, "completion_tokens": 640},
    "usage hidden": {"prompt_tokens": 5, "completion_tokens": 640, "completion_tokens_details": {"reasoning_tokens": 636}},
    "usage list": [5, 4],
    "no token": {"prompt_tokens": 5, "completion_tokens": 0},
    "end token": {"prompt_tokens": 5, "completion_tokens": 1},
}
REASONS = ("abort", "content_filter", "tool_calls")  # prompts that are the answer's finish_reason
WORDS = ("one ", "two ", "three")
UNSHOWN: dict[str, list[dict[str, Any]]] = {  # deltas before the text
    "thoughts": [{"reasoning_content": "well"}, {"reasoning": " then"}],
    "tool call": [{"tool_calls": [{"index": 0, "function": {"name": "add", "arguments": "{"}}]}],
}
EVENTS = {  # that are no answer, before the text
    "odd events": b"event: ping\ndata: hello\n\ndata:\n\ndata\r\rid: 1\nretry: 5\n\n"
    b'data: {"object": "chat.completion.chunk",\r\ndata: "usage": {"prompt_tokens": 1, "completion_tokens": 1}}\r\n\r\n',
    "not a chunk": b'data: {"object": "ping"}\n\n',
}


class FaultServer:
    """Runs on a thread of its own. counts: requests by path. bodies, headers: of the requests for answers."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.counts: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.models: Any = {"data": [{"id": "faulty"}]}
        self.no_models = 404
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.url = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()

    def stop(self) -> None:
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    async def _start(self) -> str:
        app = web.Application()
        for prefix in ("", "/other"):
            app.router.add_get(f"{prefix}/v1/models", self._models)
            app.router.add_post(f"{prefix}/v1/chat/completions", self._answer)
            app.router.add_post(f"{prefix}/v1/completions", self._answer)
        app.router.add_post("/v1/videos/generations", self._video)
        app.router.add_post("/v1/videos", self._video)
        app.router.add_get("/v1/videos/v1", self._video)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._tls).start()
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._runner.addresses[0][1]}"

    async def _models(self, request: web.Request) -> web.Response:
        if self.models is None:
            return web.Response(status=self.no_models)
        return web.json_response(self.models, headers={"Server": "faultd/1.0"})

    async def _video(self, request: web.Request) -> web.Response:
        if request.method == "GET":
            return web.json_response({"id": "v1", "status": "failed", "error": {"message": "out of memory"}})
        if request.content_type == "application/json":
            return web.json_response({"video_id": "v1", "video_path": (await request.json())["prompt"]})
        return web.json_response({"id": "v1", "status": "queued"})

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.counts[request.path] += 1
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        fault = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
        if fault in ("429", "500") or (fault == "twice 503" and self.counts[request.path] < 3):
            status = int(fault.removeprefix("twice "))
            key = request.headers.get("Authorization", "")
            return web.json_response({"error": {"message": f"come back later, {key}"}}, status=status)
        if fault == "slow":
            await asyncio.sleep(0.3)
        if not body.get("stream"):
            usage = {} if fault == "no usage" else {"usage": STRANGE_USAGE.get(fault, USAGE)}
            reason = fault if fault in REASONS else "length"
            choice = {"message": {"content": "".join(WORDS)}, "text": "".join(WORDS), "finish_reason": reason}
            return web.json_response({"choices": [choice], **usage})
        return await self._stream(request, fault, body)

    async def _stream(self, request: web.Request, fault: str, body: dict[str, Any]) -> web.StreamResponse:
        stream = web.StreamResponse(headers={"Content-Type": "text/html" if fault == "not a stream" else "text/event-stream"})
        await stream.prepare(request)

        async def send(content: dict[str, Any]) -> None:
            await stream.write(b": a comment\ndata: " + json.dumps(content).encode() + b"\n\n")

        def choice(text: str, finish: str | None = None, **delta: Any) -> dict[str, Any]:
            return {"choices": [{"delta": {"content": text, **delta}, "text": text, "finish_reason": finish}]}

        await send(choice(""))
        for delta in UNSHOWN.get(fault, ()):
            await send(choice("", **delta))
        if fault in EVENTS:
            await stream.write(EVENTS[fault])
        for word in () if fault in ("no token", "end token", "only done") else ("a",) * 40 if fault == "many deltas" else WORDS:
            await send(choice(word))
            await asyncio.sleep(0 if fault == "many deltas" else 0.02)
        if fault == "cut":
            assert request.transport is not None
            request.transport.abort()
        elif fault == "ends early":
            pass
        elif fault == "malformed":
            await stream.write(b'data: {"choices": [\n\n')
        elif fault == "error inside":
            await send({"error": {"message": "out of memory"}})
        elif fault == "endless":
            while True:
                await send(choice("again "))
                await asyncio.sleep(0.02)
        else:
            if fault != "only done":
                await send(choice("", fault if fault in REASONS else "stop"))
            if fault == "late usage":
                await asyncio.sleep(0.3)
            if fault != "no usage":
                await send({"choices": [], "usage": STRANGE_USAGE.get(fault, USAGE)})
            if fault != "no done":
                await stream.write(b"data: [DONE]\n\n")
        await stream.write_eof()
        return stream


def ask(endpoint: Endpoint, *prompts: str) -> Sequence[Response]:
    samples = [Sample(i, prompt) for i, prompt in enumerate(prompts)]
    return endpoint.generate(samples, [Query(i, i, 7) for i in range(len(prompts))])
