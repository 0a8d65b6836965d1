"""Both ends of HTTP: bodies of requests to `serve`, and answers of a server to the pipeline `endpoint`."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import cast

import numpy as np
from aiohttp import web

from pipelines.endpoint.client import listed_models
from pipelines.endpoint.connections import Connection, Receiver, Server
from pipelines.endpoint.errors import QueryError
from pipelines.endpoint.exchange import Answer, Exchange
from pipelines.endpoint.http_reply import MalformedReplyError
from pipelines.endpoint.text import TextApi
from pipelines.endpoint.videos import VideoApi
from pipelines.serving.bodies.fields import json_body
from pipelines.serving.bodies.text import read_chat, read_completion
from pipelines.serving.bodies.video import read_video_question
from pipelines.serving.errors import BadRequestError
from pipelines.toy.llm import ToyLLM
from pipelines.toy.t2v import ToyT2V
from pipelines.toy.vlm import ToyVLM
from tests.fuzz.fuzzing import Refused, Target
from workloads.records import Query, Sample
from workloads.run_folder.media import mp4_of

CHAT = """{"model": "toy", "messages": [{"role": "system", "content": ""}, {"role": "user", "content": [{"type": "text", "text": "hello"},
 {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}]}], "stream": true,
 "stream_options": {"include_usage": true}, "seed": 5, "temperature": 0, "top_p": 1, "n": 1, "stop": [], "max_tokens": null,
 "user": "me", "response_format": {"type": "text"}}"""
COMPLETION = '{"model": "toy", "prompt": "why?", "seed": 1, "temperature": 0, "logprobs": null, "logit_bias": {}}'
VIDEO = '{"model": "toy", "prompt": "a cat", "seed": 1, "size": null, "num_frames": null, "response_format": "video_bytes"}'
WHOLE = """{"id": "x", "choices": [{"index": 0, "message": {"role": "assistant", "content": "because", "reasoning_content": null},
 "finish_reason": "stop"}], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "completion_tokens_details": {"reasoning_tokens": 0}}}"""
STREAM = """: a comment

data: {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "be"}}]}

data: {"choices": [{"index": 0, "delta": {"content": "cause", "reasoning": null}, "finish_reason": null}]}

data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}

data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}

data: [DONE]

"""
MODELS = '{"object": "list", "data": [{"id": "model", "object": "model"}]}'
FAILED = '{"error": {"message": "no such model", "code": 404}}'


def targets(place: Path) -> list[Target]:
    video = mp4_of(np.zeros((3, 16, 16, 3), np.uint8), 8.0)
    bodies = {"chat.json": CHAT, "completion.json": COMPLETION, "video.json": VIDEO}
    answers = {"whole.json": WHOLE, "stream.sse": STREAM, "models.json": MODELS, "failed.json": FAILED, "job.json": '{"video_bytes": ""}'}
    return [
        Target("request to serve", {name: text.encode() for name, text in bodies.items()}, _serve, 30),
        Target("answer of a server", {**{name: text.encode() for name, text in answers.items()}, "video.mp4": video}, _endpoint, 40),
    ]


def _serve(name: str, content: bytes) -> None:
    async def answer() -> None:
        body = await json_body(cast(web.Request, _Request(content)))
        if name == "chat.json":
            read_chat(body, ToyVLM(), "toy")
        elif name == "completion.json":
            read_completion(body, ToyLLM(), "toy")
        else:
            read_video_question(body, ToyT2V(), "toy", ("response_format",))

    try:
        asyncio.run(answer())
    except BadRequestError as error:
        raise Refused(json.dumps(error.body())) from None


class _Request:
    """What json_body uses of a web.Request."""

    content_type = "application/json"

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def read(self) -> bytes:
        return self._content


def _endpoint(name: str, content: bytes) -> None:
    if name == "models.json":
        try:
            listed_models(content)
        except ValueError as error:
            raise Refused(str(error)) from None
        return
    status = 404 if name == "failed.json" else 200
    kind = {"stream.sse": "text/event-stream", "video.mp4": "video/mp4"}.get(name, "application/json")
    head = b"HTTP/1.1 %d OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n" % (status, kind.encode(), len(content))
    api: TextApi | VideoApi = TextApi({"stream": name == "stream.sse", "temperature": 0}, True, None, "usage", None)
    if name in ("video.mp4", "job.json"):
        api = VideoApi({}, False, 0.0, None)
    try:
        asyncio.run(_ask(api, head + content))
    except (QueryError, MalformedReplyError) as error:
        raise Refused(str(error)) from None


async def _ask(api: TextApi | VideoApi, content: bytes) -> None:
    """Has the answer arrive in pieces of 100 bytes."""
    server = _Server(asyncio.get_running_loop(), "http://server", None, None, 1.0)
    server.content = content
    ended: asyncio.Future[Answer] = server.loop.create_future()
    api.start(Exchange(server, Sample(0, "why?"), Query(0, 0, 1), lambda at: None, ended.set_result, lambda now: 0.0))
    (await ended).response()


class _Server(Server):
    content = b""

    def send(self, request: bytes, receiver: Receiver) -> Connection:
        connection = Connection(self)
        connection.connection_made(_Transport())
        connection.send(request, receiver)
        for start in range(0, len(self.content), 100):
            connection.data_received(self.content[start : start + 100])
        connection.eof_received()
        connection.connection_lost(None)
        return connection


class _Transport(asyncio.Transport):
    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def abort(self) -> None:
        pass

    def is_closing(self) -> bool:
        return True
