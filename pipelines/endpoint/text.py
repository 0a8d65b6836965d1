"""Texts from /v1/chat/completions or /v1/completions, whole or as a stream of server-sent events."""

from __future__ import annotations

import base64
import itertools
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import aiohttp
import msgspec

from configs.decode import reading
from pipelines.base import Response
from pipelines.endpoint.client import QUOTE_LENGTH, Exchange, QueryError, check_status, error_text, read_json
from workloads.records import Query, Sample

_TYPES = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif", b"RIFF": "webp", b"BM": "bmp"}
SPECIAL_TOKENS = 32  # tokens of an answer that may leave no text; every other token is at least one byte
DELTAS_A_TOKEN, FEW_DELTAS = 2, 16  # a server may send a token in two pieces, but not all of them in many


class _Message(msgspec.Struct):
    """A message, or what a delta adds to it. reasoning: in vLLM and others, tokens that are not part of the answer."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None

    @property
    def thought(self) -> str:
        return (self.reasoning_content or "") + (self.reasoning or "")


class _Choice(msgspec.Struct):
    message: _Message | None = None
    delta: _Message | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    """An answer, whole or a piece of a stream, as far as it is read. usage is checked where it is counted by."""

    choices: list[_Choice] | None = None
    usage: Any = None
    error: Any = None


@dataclass
class _Stream:
    """What a stream has sent so far. times: of the deltas with text or thoughts. finished: when the finish_reason came."""

    text: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    finish_reason: str | None = None
    finished: float | None = None
    usage: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class TextApi:
    """fixed: fields of every request. chat: send messages, with images; else a bare prompt."""

    fixed: Mapping[str, Any]
    chat: bool
    system_prompt: str | None
    count_by: Literal["usage", "deltas", "tokenizer"]
    tokenizer: Any

    async def __call__(self, exchange: Exchange) -> Response:
        url = exchange.url + ("/v1/chat/completions" if self.chat else "/v1/completions")
        began = time.perf_counter()
        body = msgspec.json.encode(self.body(exchange.sample, exchange.query))
        headers = {"Content-Type": "application/json"}
        async with exchange.session.post(url, data=body, headers=headers, allow_redirects=False) as answer:
            if not self.fixed.get("stream"):
                return self._whole(await read_json(answer, url), url, exchange, began)
            await check_status(answer, url)
            if answer.content_type != "text/event-stream":
                raise QueryError(f"{url}: stream: true was requested, but the answer is {answer.content_type}; try stream: false")
            return self._streamed(await self._read_stream(answer, url, exchange), url, exchange, began)

    def body(self, sample: Sample, query: Query) -> dict[str, Any]:
        seed = {"seed": query.seed} if self.fixed.get("temperature") != 0 else {}
        if not self.chat:
            if sample.images:
                raise QueryError("images need api: chat")
            return {"prompt": sample.prompt, **seed, **self.fixed}
        content: Any = sample.prompt
        if sample.images:
            content = [{"type": "image_url", "image_url": {"url": _data_url(image)}} for image in sample.images]
            content.append({"type": "text", "text": sample.prompt})
        system = [{"role": "system", "content": self.system_prompt}] if self.system_prompt else []
        return {"messages": [*system, {"role": "user", "content": content}], **seed, **self.fixed}

    async def _read_stream(self, answer: aiohttp.ClientResponse, url: str, exchange: Exchange) -> _Stream:
        stream = _Stream()
        async for data in events_of(answer.content.iter_any()):
            now = time.perf_counter()
            if data == "[DONE]":
                if stream.finish_reason is None and not stream.times:
                    raise QueryError(f"{url}: the stream ended without a delta or a finish_reason")
                return stream
            try:
                chunk = msgspec.json.decode(data, type=_Chunk)
            except (ValueError, RecursionError):
                raise QueryError(f"{url}: malformed server-sent event: {data[:QUOTE_LENGTH]!r}") from None
            if chunk.error:
                raise QueryError(f"{url}: status {answer.status}, then an error in the stream: {error_text({'error': chunk.error})}")
            if chunk.choices is None:
                raise QueryError(f"{url}: a server-sent event without choices: {data[:QUOTE_LENGTH]!r}")
            stream.usage = chunk.usage or stream.usage
            for choice in chunk.choices[:1]:
                delta = choice.delta or _Message()
                piece = (delta.content if self.chat else choice.text) or ""
                thought = delta.thought
                if piece or thought:
                    if not stream.times:
                        exchange.on_first_token()
                    stream.times.append(now)
                    stream.text.append(piece)
                    stream.thoughts.append(thought)
                if choice.finish_reason:
                    stream.finish_reason, stream.finished = choice.finish_reason, now
        if stream.finish_reason is None:
            raise QueryError(f"{url}: the stream was cut after {len(stream.times)} deltas, without a finish_reason or [DONE]")
        return stream

    def _streamed(self, stream: _Stream, url: str, exchange: Exchange, began: float) -> Response:
        text, times = "".join(stream.text), stream.times
        num_input, num_units = self._count(stream.usage, len(times), text, "".join(stream.thoughts), exchange.sample.prompt, url)
        if num_units == len(times) + 1 and stream.finished is not None:  # with an end token, which has no text
            times = [*times, stream.finished]
        ended = time.perf_counter()
        return Response(
            text=text,
            num_units=num_units,
            num_input_tokens=num_input,
            finish_reason=stream.finish_reason,
            token_gap_s=[b - a for a, b in itertools.pairwise(times)] if num_units == len(times) else (),
            stages={"first_token": times[0] - began, "further_tokens": ended - times[0]} if times else {"whole_answer": ended - began},
        )

    def _whole(self, body: Mapping[str, Any], url: str, exchange: Exchange, began: float) -> Response:
        with reading(f"{url}: an answer", f"it is {str(body)[:QUOTE_LENGTH]}", QueryError):
            whole = msgspec.convert(body, _Chunk)
        choice = next(iter(whole.choices or ()), None)
        if choice is None or (choice.message is None if self.chat else choice.text is None):
            raise QueryError(f"{url}: an answer without choices: {str(body)[:QUOTE_LENGTH]}")
        message = (choice.message if self.chat else None) or _Message(content=choice.text)
        text, thoughts = message.content or "", message.thought
        num_input, num_units = self._count(whole.usage, 0, text, thoughts, exchange.sample.prompt, url)
        stages = {"whole_answer": time.perf_counter() - began}
        return Response(text=text, num_units=num_units, num_input_tokens=num_input, finish_reason=choice.finish_reason, stages=stages)

    def _count(self, usage: Mapping[str, Any] | None, num_deltas: int, text: str, thoughts: str, prompt: str, url: str) -> tuple[int, int]:
        """The numbers of tokens of prompt and answer; with deltas, the prompt's is not known and counts as 0."""
        if self.count_by == "usage":
            why = "the answer has no usage" if usage is None else _impossible(usage, num_deltas, text + thoughts)
            if usage is None or why is not None:
                raise QueryError(f"{url}: {why}; count tokens with count_by: deltas, or tokenizer")
            return usage["prompt_tokens"], usage["completion_tokens"]
        if self.count_by == "deltas":
            return 0, num_deltas
        return len(self.tokenizer(prompt)["input_ids"]), self.count_tokens(text)

    def count_tokens(self, text: str) -> int:
        """By the tokenizer, which there is where `count_by` says so."""
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])


async def events_of(pieces: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """The data of every server-sent event, by WHATWG's rules for lines, without comments and other fields."""
    rest, data = b"", list[str]()
    async for piece in pieces:
        lines = (rest + piece).replace(b"\r\n", b"\n").split(b"\n")
        rest = lines.pop()
        for line in lines:
            if line.startswith(b"data:"):
                data.append(line[5:].removeprefix(b" ").decode(errors="replace"))
            elif not line and data:
                yield "\n".join(data)
                data = []


def _data_url(image: bytes) -> str:
    kind: Sequence[str] = [name for magic, name in _TYPES.items() if image.startswith(magic)]
    return f"data:image/{kind[0] if kind else 'png'};base64,{base64.b64encode(image).decode()}"


def _impossible(usage: Mapping[str, Any], num_deltas: int, text: str) -> str | None:
    """Why a server's usage cannot be the count of this answer; None where it can. text: with thoughts. num_deltas: 0 of a whole answer.

    A prompt of 0 tokens is one that the server does not count.
    """
    for name in ("prompt_tokens", "completion_tokens"):
        value = usage.get(name) if isinstance(usage, Mapping) else None
        if type(value) is not int or value < 0 or (value == 0 and text and name == "completion_tokens"):
            return f"its usage has {name} {value!r:.40} beside {num_deltas or 'no'} deltas and {len(text)} characters of text"
    num_tokens, num_bytes = usage["completion_tokens"], len(text.encode(errors="replace"))
    if num_deltas > num_tokens * DELTAS_A_TOKEN + FEW_DELTAS:
        return f"its usage has {num_tokens} completion_tokens, and the stream {num_deltas} deltas with text"
    details = usage.get("completion_tokens_details")
    hidden = details.get("reasoning_tokens") if isinstance(details, Mapping) else 0  # of thoughts that the server keeps to itself
    if num_tokens > num_bytes + SPECIAL_TOKENS + (hidden if type(hidden) is int else 0):
        return f"its usage has {num_tokens} completion_tokens in a text of {num_bytes} bytes"
    return None
