"""/v1/chat/completions and /v1/completions over an engine, whole or by server-sent events.

A stream begins with the first token, so a failure before it is an ordinary error response.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Any

import msgspec
from aiohttp import web

from configs.errors import describe
from pipelines.base import Event, Response
from pipelines.serving.bodies.fields import json_body
from pipelines.serving.bodies.text import TextRequest, read_chat, read_completion
from pipelines.serving.engine import BrokenError, Engine, Question
from pipelines.serving.errors import BadRequestError
from pipelines.serving.state import OBSERVATION, WARNINGS, ServerState


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
        request[WARNINGS], observation = text_request.warnings, request[OBSERVATION]
        observation.seen.stream = text_request.stream
        head = {"id": observation.seen.id, "created": int(time.time()), "model": self._state.model}
        responses: dict[int, Response] = {}
        async with contextlib.aclosing(answer_events(self._state.engine, text_request.questions)) as events:
            if text_request.stream:
                return await self._stream(request, text_request, events, head, kind)
            async for i, event in events:
                observation.first_token()
                if event.response is not None:
                    responses[i] = event.response
        answers = [responses[i] for i in range(len(responses))]
        observation.answered(answers)
        choices = [_whole_choice(kind == "chat.completion", i, answer) for i, answer in enumerate(answers)]
        return web.json_response({**head, "object": kind, "choices": choices, "usage": _usage(answers)})

    async def _stream(
        self,
        request: web.Request,
        text_request: TextRequest,
        events: AsyncIterator[tuple[int, Event]],
        head: Mapping[str, Any],
        kind: str,
    ) -> web.StreamResponse:
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        chunks = _Chunks({**head, "object": kind + (".chunk" if kind == "chat.completion" else "")}, kind == "chat.completion")
        try:
            async for i, event in events:
                if lines := chunks.of(i, event):
                    if not stream.prepared:
                        await stream.prepare(request)
                    await stream.write(lines)
                    request[OBSERVATION].first_token()
            answers = [chunks.responses[i] for i in range(len(chunks.responses))]
            request[OBSERVATION].answered(answers)
            last = chunks.usage(answers) if text_request.include_usage else b""
            await stream.write(last + b"data: [DONE]\n\n")
        except (BadRequestError, RuntimeError, ValueError) as error:
            if not stream.prepared:
                raise
            problem = error if isinstance(error, BadRequestError) else BadRequestError(describe(error), status=500)
            request[OBSERVATION].problem = str(problem)
            await stream.write(_line(problem.body()))  # the status was sent before
        await stream.write_eof()
        return stream


class _Chunks:
    """The chunks of a stream, as lines of server-sent events. responses: those that have ended, by number."""

    def __init__(self, head: Mapping[str, Any], is_chat: bool) -> None:
        self._head, self._is_chat = dict(head), is_chat
        self._sent: dict[int, str] = {}
        self.responses: dict[int, Response] = {}

    def of(self, number: int, event: Event) -> bytes:
        text, response, begun = event.text or "", event.response, number in self._sent
        if response is not None:  # with the text that no event had
            text = (response.text or "")[len(self._sent.get(number, "")) :]
        self._sent[number] = self._sent.get(number, "") + text
        lines = b""
        if not begun:
            lines = self._choice(number, {"role": "assistant", "content": text})
        elif text:
            lines = self._choice(number, {"content": text})
        if response is not None:
            self.responses[number] = response
            lines += self._choice(number, {}, response.finish_reason or "stop")
        return lines

    def usage(self, answers: Sequence[Response]) -> bytes:
        return _line({**self._head, "choices": [], "usage": _usage(answers)})

    def _choice(self, number: int, delta: Mapping[str, str], finish_reason: str | None = None) -> bytes:
        content = {"delta": delta} if self._is_chat else {"text": delta.get("content", "")}
        choice = {"index": number, **content, "logprobs": None, "finish_reason": finish_reason}
        return _line({**self._head, "choices": [choice]})


async def answer_events(engine: Engine, questions: Sequence[Question]) -> AsyncGenerator[tuple[int, Event]]:
    """The events of questions, by number; the last of each has its response. Raises BadRequestError where one has no answer."""
    loop, events = asyncio.get_running_loop(), asyncio.Queue[tuple[int, Event | BrokenError]]()

    def ask(i: int, question: Question) -> int:
        def deliver(event: Event | BrokenError) -> None:
            loop.call_soon_threadsafe(events.put_nowait, (i, event))

        return engine.ask(question, deliver)

    waiting = {i: ask(i, question) for i, question in enumerate(questions)}
    try:
        while waiting:
            i, event = await events.get()
            if isinstance(event, BrokenError):
                del waiting[i]
                raise BadRequestError(str(event), code="engine_failed", status=500)
            if event.response is not None:
                del waiting[i]
                if event.response.error is not None:
                    raise BadRequestError(event.response.error, code="not_answered")
            yield i, event
    finally:  # the client is gone, or another answer failed
        for number in waiting.values():
            engine.forget(number)


def _whole_choice(is_chat: bool, number: int, response: Response) -> dict[str, Any]:
    text = {"message": {"role": "assistant", "content": response.text}} if is_chat else {"text": response.text}
    return {"index": number, **text, "logprobs": None, "finish_reason": response.finish_reason or "stop"}


def _usage(answers: Sequence[Response]) -> dict[str, int]:
    prompt, completion = answers[0].num_input_tokens, sum(answer.num_units for answer in answers)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _line(chunk: Mapping[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(chunk) + b"\n\n"
