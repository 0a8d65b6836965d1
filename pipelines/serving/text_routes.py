"""/v1/chat/completions and /v1/completions over an engine, whole or by server-sent events.

A stream begins with the first token, so a failure before it is an ordinary error response.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

import msgspec
from aiohttp import web

from configs.decode import SHOWN
from configs.errors import first_line
from pipelines.base import Event, Response
from pipelines.serving.engine import BrokenError, Engine, Question
from pipelines.serving.errors import BadRequestError
from pipelines.serving.request_bodies import TextRequest, read_chat, read_completion
from pipelines.serving.state import ServerState


class TextRoutes:
    def __init__(self, state: ServerState) -> None:
        self._state = state

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/v1/chat/completions", self.chat), web.post("/v1/completions", self.complete)]

    async def chat(self, request: web.Request) -> web.StreamResponse:
        text_request = read_chat(await json_body(request), self._state.pipeline, self._state.model)
        return await self._answer(request, text_request, "chat.completion")

    async def complete(self, request: web.Request) -> web.StreamResponse:
        text_request = read_completion(await json_body(request), self._state.pipeline, self._state.model)
        return await self._answer(request, text_request, "text_completion")

    async def _answer(self, request: web.Request, text_request: TextRequest, kind: str) -> web.StreamResponse:
        head = {"id": f"cmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": self._state.model}
        async with contextlib.aclosing(answer_events(self._state.engine, text_request.question)) as events:
            if text_request.stream:
                return await self._stream(request, text_request, events, head, kind)
            response = [event.response async for event in events][-1]
        assert response is not None
        text = {"message": {"role": "assistant", "content": response.text}} if kind == "chat.completion" else {"text": response.text}
        choice = {"index": 0, **text, "logprobs": None, "finish_reason": response.finish_reason or "stop"}
        return web.json_response({**head, "object": kind, "choices": [choice], "usage": _usage(response)})

    async def _stream(
        self, request: web.Request, text_request: TextRequest, events: AsyncIterator[Event], head: Mapping[str, Any], kind: str
    ) -> web.StreamResponse:
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        is_chat, sent = kind == "chat.completion", ""
        chunk = {**head, "object": kind + (".chunk" if is_chat else "")}
        try:
            async for event in events:
                text, response = event.text or "", event.response
                if response is not None:  # with the text that no event had
                    text = (response.text or "")[len(sent) :]
                sent += text
                if not stream.prepared:
                    await stream.prepare(request)
                    await _write(stream, {**chunk, "choices": [_choice(is_chat, {"role": "assistant", "content": text})]})
                elif text:
                    await _write(stream, {**chunk, "choices": [_choice(is_chat, {"content": text})]})
                if response is not None:
                    await _write(stream, {**chunk, "choices": [_choice(is_chat, {}, response.finish_reason or "stop")]})
                    if text_request.include_usage:
                        await _write(stream, {**chunk, "choices": [], "usage": _usage(response)})
            await stream.write(b"data: [DONE]\n\n")
        except BadRequestError as error:
            if not stream.prepared:
                raise
            await _write(stream, error.body())  # the status was sent before
        await stream.write_eof()
        return stream


async def answer_events(engine: Engine, question: Question) -> AsyncGenerator[Event]:
    """The events of one question, the last with its response. Raises BadRequestError where there is no answer."""
    loop, events = asyncio.get_running_loop(), asyncio.Queue[Event | BrokenError]()

    def deliver(event: Event | BrokenError) -> None:
        loop.call_soon_threadsafe(events.put_nowait, event)

    number = engine.ask(question, deliver)
    ended = False
    try:
        while not ended:
            event = await events.get()
            ended = isinstance(event, BrokenError) or event.response is not None
            if isinstance(event, BrokenError):
                raise BadRequestError(str(event), code="engine_failed", status=500)
            if event.response is not None and event.response.error is not None:
                raise BadRequestError(event.response.error, code="not_answered")
            yield event
    finally:
        if not ended:  # the client is gone
            engine.forget(number)


async def json_body(request: web.Request) -> dict[str, Any]:
    if request.content_type != "application/json":
        raise BadRequestError(f"the body is {request.content_type}; send JSON, with Content-Type: application/json")
    try:
        return msgspec.json.decode(await request.read(), type=dict[str, Any])
    except (ValueError, RecursionError) as error:
        raise BadRequestError(f"the body is not JSON: {first_line(error)[:SHOWN]}; send a JSON object") from None


def _usage(response: Response) -> dict[str, int]:
    prompt, completion = response.num_input_tokens, response.num_units
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _choice(is_chat: bool, delta: Mapping[str, str], finish_reason: str | None = None) -> dict[str, Any]:
    content = {"delta": delta} if is_chat else {"text": delta.get("content", "")}
    return {"index": 0, **content, "logprobs": None, "finish_reason": finish_reason}


async def _write(stream: web.StreamResponse, chunk: Mapping[str, Any]) -> None:
    await stream.write(b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n")
