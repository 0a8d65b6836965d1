"""Texts from /v1/chat/completions or /v1/completions, whole or as a stream of server-sent events."""

from __future__ import annotations

import base64
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from configs.decode import reading
from pipelines.base import Response
from pipelines.endpoint.connections import Server, Whole
from pipelines.endpoint.errors import QUOTE_LENGTH, CutError, QueryError, check_status
from pipelines.endpoint.exchange import Exchange
from pipelines.endpoint.http_reply import Reply
from pipelines.endpoint.text_stream import Choice, Chunk, Message, StreamReader
from workloads.records import AFTER_ANSWER, Query, Sample

_TYPES = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif", b"RIFF": "webp", b"BM": "bmp"}
SPECIAL_TOKENS = 32  # tokens of an answer that may leave no text; every other token is at least one byte
DELTAS_A_TOKEN, FEW_DELTAS = 2, 16  # a server may send a token in two pieces, but not all of them in many


@dataclass
class TextApi:
    """fixed: fields of every request. chat: send messages, with images; else a bare prompt."""

    fixed: Mapping[str, Any]
    chat: bool
    system_prompt: str | None
    count_by: Literal["usage", "deltas", "tokenizer"]
    tokenizer: Any

    def __post_init__(self) -> None:
        self.streams = bool(self.fixed.get("stream"))
        self.sends_seed = self.fixed.get("temperature") != 0 and "seed" not in self.fixed
        self.path = "/v1/chat/completions" if self.chat else "/v1/completions"
        self._heads: dict[Server, bytes] = {}
        begun = b'"messages":[' if self.chat else b'"prompt":'
        if self.chat and self.system_prompt:
            begun += msgspec.json.encode({"role": "system", "content": self.system_prompt}) + b","
        fixed = msgspec.json.encode(self.fixed)[1:-1]  # without its braces
        self._begun, self._ended = b"{" + begun, (b"," + fixed if fixed else b"") + b"}"
        self._is_given = ("messages" if self.chat else "prompt") in self.fixed  # by option `extra`

    def start(self, exchange: Exchange) -> Callable[[], None]:
        """Send a query; the function gives it up."""
        server = exchange.server
        if server not in self._heads:
            self._heads[server] = server.head("POST", self.path, "Content-Type: application/json")
        began = time.perf_counter()
        body = self.body(exchange.sample, exchange.query)
        answer = _Answer(self, exchange, began)
        request = b"%sContent-Length: %d\r\n\r\n%s" % (self._heads[server], len(body), body)
        return server.send(request, answer).cancel

    def body(self, sample: Sample, query: Query) -> bytes:
        seed = b',"seed":%d' % query.seed if self.sends_seed else b""
        if self._is_given:
            return b"{" + self._ended[1:-1] + seed + b"}"
        prompt = msgspec.json.encode(sample.prompt)
        if not self.chat:
            if sample.images:
                raise QueryError("images need api: chat")
            return self._begun + prompt + seed + self._ended
        if sample.images:
            images = b"".join(b'{"type":"image_url","image_url":{"url":"%s"}},' % _data_url(image) for image in sample.images)
            prompt = b'[%s{"type":"text","text":%s}]' % (images, prompt)
        return b'%s{"role":"user","content":%s}]%s%s' % (self._begun, prompt, seed, self._ended)

    def count(self, usage: Mapping[str, Any] | None, num_deltas: int, text: str, thoughts: str, prompt: str, url: str) -> tuple[int, int]:
        """The numbers of tokens of prompt and answer, thoughts included; with deltas, the prompt's is not known and counts as 0."""
        if self.count_by == "usage":
            why = "the answer has no usage" if usage is None else _impossible(usage, num_deltas, text + thoughts)
            if usage is None or why is not None:
                raise QueryError(f"{url}: {why}; count tokens with count_by: deltas, or tokenizer")
            return usage["prompt_tokens"], usage["completion_tokens"]
        if self.count_by == "deltas":
            return 0, num_deltas
        return len(self.tokenizer(prompt)["input_ids"]), self.count_tokens(text) + (self.count_tokens(thoughts) if thoughts else 0)

    def count_tokens(self, text: str) -> int:
        """By the tokenizer, which there is where `count_by` says so."""
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])


class _Answer:
    """Receives the answer of one try."""

    __slots__ = ("_api", "_began", "_error", "_exchange", "_lag_s", "_reader", "_url", "_whole", "reply")

    def __init__(self, api: TextApi, exchange: Exchange, began: float) -> None:
        self._api, self._exchange, self._began = api, exchange, began
        self._url = exchange.server.url + api.path
        self._whole: Whole | None = None
        self._reader: StreamReader | None = None
        self._error: Exception | None = None
        self._lag_s: float | None = None
        self.reply = Reply()

    def feed(self, content: bytes, now: float) -> bool:
        reader = self._reader
        self.reply.add(content, now)
        if reader is None:
            if self._whole is None and not self._begin():
                return False
            if self._whole is not None:
                return self._whole.take()
            reader = self._reader
            assert reader is not None
        had_token = reader.has_token
        reader.advance(content)
        if reader.has_token and not had_token:
            self._lag_s = self._exchange.lag_s(now)
            self._exchange.on_first_token(now)
        return reader.is_done or self.reply.over

    def _begin(self) -> bool:
        """Choose how to read once the head is there; whether it is. Raises QueryError."""
        head = self.reply.head
        if head is None:
            return False
        if not self._api.streams or not 200 <= head.status < 300:
            self._whole = Whole(self.reply)
        elif head.content_type != "text/event-stream":
            kind = head.content_type or "of no type"
            raise QueryError(f"{self._url}: stream: true was requested, but the answer is {kind}; try stream: false")
        else:
            self._reader = StreamReader(self.reply, self._url, self._api.chat)
        return True

    def finish(self, error: Exception | None) -> None:
        self._error = error
        if self._lag_s is None:
            self._lag_s = self._exchange.lag_s(time.perf_counter())
        self._exchange.on_end(self)

    def response(self) -> Response:
        """Raises QueryError."""
        if self._error is not None:
            if isinstance(self._error, CutError) and self._reader is not None:
                self._reader.stream()  # raises with the number of deltas, unless only what follows the answer is missing
            raise self._error
        if self._reader is not None:
            return self._streamed(self._reader)
        assert self._whole is not None
        assert self.reply.head is not None
        content = self._whole.body()
        check_status(self.reply.head, content, self._url)
        return self._read_whole(content)

    def _streamed(self, reader: StreamReader) -> Response:
        stream = reader.stream()
        text, times = "".join(stream.text), stream.times
        api, prompt = self._api, self._exchange.sample.prompt
        thoughts = "".join(stream.thoughts)
        num_input, num_units = api.count(stream.usage, len(times), text, thoughts, prompt, self._url)
        last = max([*times[-1:], *([] if stream.finished is None else [stream.finished])], default=None)
        if num_units == len(times) + 1 and stream.finished is not None:  # with an end token, which has no text
            times = [*times, stream.finished]
        ended = time.perf_counter()
        last = ended if last is None else last
        first = times[0] if times else last
        waits = {"first_token": first - self._began, "further_tokens": last - first} if times else {"whole_answer": last - self._began}
        return Response(
            text=text,
            thoughts=thoughts,
            num_units=num_units,
            num_input_tokens=num_input,
            finish_reason=stream.finish_reason,
            token_gap_s=[b - a for a, b in itertools.pairwise(times)] if num_units == len(times) else (),
            stages=waits | {AFTER_ANSWER: ended - last},
            client_lag_s=self._lag_s,
        )

    def _read_whole(self, content: bytes) -> Response:
        with reading(f"{self._url}: an answer", f"it is {content[:QUOTE_LENGTH]!r}", QueryError):
            whole = msgspec.json.decode(content, type=Chunk)
        choice: Choice | None = next(iter(whole.choices or ()), None)
        if choice is None or (choice.message is None if self._api.chat else choice.text is None):
            raise QueryError(f"{self._url}: an answer without choices: {content.decode(errors='replace')[:QUOTE_LENGTH]}")
        message = (choice.message if self._api.chat else None) or Message(content=choice.text)
        text, thoughts = message.content or "", message.thought
        num_input, num_units = self._api.count(whole.usage, 0, text, thoughts, self._exchange.sample.prompt, self._url)
        return Response(
            text=text,
            thoughts=thoughts,
            num_units=num_units,
            num_input_tokens=num_input,
            finish_reason=choice.finish_reason,
            stages={"whole_answer": time.perf_counter() - self._began},
            client_lag_s=self._lag_s,
        )


def _data_url(image: bytes) -> bytes:
    kind: Sequence[str] = [name for magic, name in _TYPES.items() if image.startswith(magic)]
    return b"data:image/%s;base64,%s" % ((kind[0] if kind else "png").encode(), base64.b64encode(image))


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
