"""A text asked of /v1/chat/completions or /v1/completions, whole or as a stream of server-sent events."""

from __future__ import annotations

import base64
import itertools
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import aiohttp
import msgspec

from pipelines.base import Response
from pipelines.endpoint.client import FEW, Exchange, Trouble, checked, error_text, read_json
from workloads.records import Query, Sample

_TYPES = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif", b"RIFF": "webp", b"BM": "bmp"}
_THOUGHTS = ("reasoning_content", "reasoning")  # tokens that are no part of the answer, as vLLM and others name them


@dataclass
class _Heard:
    """A stream so far. times: of the deltas that held text."""

    text: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    finish_reason: str | None = None
    finished: float = 0.0
    usage: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class TextTalk:
    """fixed: fields of every request. chat: messages, with images, rather than a bare prompt."""

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
            await checked(answer, url)
            if answer.content_type != "text/event-stream":
                raise Trouble(f"{url}: asked for a stream, it answers with {answer.content_type}; try stream: false")
            return self._streamed(await self._listen(answer, url, exchange), url, exchange, began)

    def body(self, sample: Sample, query: Query) -> dict[str, Any]:
        seed = {"seed": query.seed} if self.fixed.get("temperature") != 0 else {}
        if not self.chat:
            if sample.images:
                raise Trouble("images need api: chat")
            return {"prompt": sample.prompt, **seed, **self.fixed}
        content: Any = sample.prompt
        if sample.images:
            content = [{"type": "image_url", "image_url": {"url": _data_url(image)}} for image in sample.images]
            content.append({"type": "text", "text": sample.prompt})
        system = [{"role": "system", "content": self.system_prompt}] if self.system_prompt else []
        return {"messages": [*system, {"role": "user", "content": content}], **seed, **self.fixed}

    async def _listen(self, answer: aiohttp.ClientResponse, url: str, exchange: Exchange) -> _Heard:
        heard = _Heard()
        async for data in events_of(answer.content.iter_any()):
            now = time.perf_counter()
            if data == "[DONE]":
                return heard
            try:
                chunk = msgspec.json.decode(data)
            except msgspec.DecodeError:
                raise Trouble(f"{url}: malformed server-sent event: {data[:FEW]!r}") from None
            if not isinstance(chunk, dict) or ("choices" not in chunk and not chunk.get("error")):
                raise Trouble(f"{url}: a server-sent event without choices: {data[:FEW]!r}")
            if chunk.get("error"):
                raise Trouble(f"{url}: status {answer.status}, then an error in the stream: {error_text(chunk)}")
            heard.usage = chunk.get("usage") or heard.usage
            for choice in chunk["choices"][:1]:
                delta = choice.get("delta") or {}
                piece = (delta.get("content") if self.chat else choice.get("text")) or ""
                if piece or any(delta.get(name) for name in _THOUGHTS):
                    if not heard.times:
                        exchange.say()
                    heard.times.append(now)
                    heard.text.append(piece)
                if choice.get("finish_reason"):
                    heard.finish_reason, heard.finished = choice["finish_reason"], now
        if heard.finish_reason is None:
            raise Trouble(f"{url}: the stream was cut after {len(heard.times)} deltas, without a finish_reason or [DONE]")
        return heard

    def _streamed(self, heard: _Heard, url: str, exchange: Exchange, began: float) -> Response:
        text, times = "".join(heard.text), heard.times
        num_input, num_units = self._count(heard.usage, len(times), text, exchange.sample.prompt, url)
        if num_units == len(times) + 1 and heard.finished:  # an end token, which has no text
            times = [*times, heard.finished]
        first = times[0] if times else heard.finished
        return Response(
            text=text,
            num_units=num_units,
            num_input_tokens=num_input,
            finish_reason=_reason(heard.finish_reason),
            token_gap_s=[b - a for a, b in itertools.pairwise(times)] if num_units == len(times) else (),
            stages={"first_token": first - began, "further_tokens": max(time.perf_counter() - first, 0.0)},
        )

    def _whole(self, body: Mapping[str, Any], url: str, exchange: Exchange, began: float) -> Response:
        try:
            choice = body["choices"][0]
            text = (choice["message"]["content"] if self.chat else choice["text"]) or ""
        except (KeyError, IndexError, TypeError):
            raise Trouble(f"{url}: an answer without choices: {str(body)[:FEW]}") from None
        num_input, num_units = self._count(body.get("usage"), 0, text, exchange.sample.prompt, url)
        spent = {"whole_answer": time.perf_counter() - began}
        reason = _reason(choice.get("finish_reason"))
        return Response(text=text, num_units=num_units, num_input_tokens=num_input, finish_reason=reason, stages=spent)

    def _count(self, usage: Mapping[str, Any] | None, num_deltas: int, text: str, prompt: str, url: str) -> tuple[int, int]:
        """Tokens of prompt and answer; the prompt's are not known by deltas."""
        if self.count_by == "usage":
            try:
                assert usage is not None
                return int(usage["prompt_tokens"]), int(usage["completion_tokens"])
            except (AssertionError, KeyError, TypeError, ValueError):
                raise Trouble(f"{url}: no usage in the answer; count its tokens by count_by: deltas, or tokenizer") from None
        if self.count_by == "deltas":
            return 0, num_deltas
        return len(self.tokenizer(prompt)["input_ids"]), len(self.tokenizer(text, add_special_tokens=False)["input_ids"])


async def events_of(pieces: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """The data of every server-sent event, by WHATWG's rules for lines; comments and other fields are skipped."""
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


def _reason(reason: str | None) -> Literal["stop", "length"] | None:
    return reason if reason in ("stop", "length") else None  # type: ignore[return-value]
