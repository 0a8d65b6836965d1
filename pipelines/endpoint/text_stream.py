"""A streamed answer: kept as bytes while it is timed, and read when it is over.

Two moments are found as the bytes come, the first token and the end. Everything else is decoded afterwards, all events in one call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from pipelines.endpoint.errors import QUOTE_LENGTH, QueryError, error_text
from pipelines.endpoint.event_stream import EventStream, Named
from pipelines.endpoint.http_reply import Reply

DONE = b"[DONE]"
ERROR = b'"error"'


class Message(msgspec.Struct, gc=False):
    """A message, or what a delta adds to it. reasoning, in vLLM and others, tool_calls: tokens that are not part of the text."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: Any = None

    @property
    def thought(self) -> str:
        """What the model generated beside the text."""
        return (self.reasoning_content or self.reasoning or "") + (_calls(self.tool_calls) if self.tool_calls else "")


class Choice(msgspec.Struct, gc=False):
    message: Message | None = None
    delta: Message | None = None
    text: str | None = None
    finish_reason: str | None = None

    def has_token(self, chat: bool) -> bool:
        delta = self.delta
        if delta is None:
            return bool(self.text) and not chat
        more = delta.reasoning_content or delta.reasoning or delta.tool_calls
        return bool((delta.content if chat else self.text) or more)


class Chunk(msgspec.Struct, gc=False):
    """An answer, whole or a piece of a stream, as far as it is read. usage is checked where it is counted by."""

    choices: list[Choice] | None = None
    usage: Any = None
    error: Any = None


_CHUNK = msgspec.json.Decoder(Chunk).decode
_CHUNKS = msgspec.json.Decoder(list[Chunk]).decode


@dataclass(slots=True)
class Stream:
    """What a stream has sent. times: of the deltas with text, thoughts or calls of tools. finished: when the finish_reason came."""

    text: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    finish_reason: str | None = None
    finished: float | None = None
    usage: Mapping[str, Any] | None = None


class StreamReader:
    """The events of one response. is_done: the last one was there. has_token: so was the first token."""

    __slots__ = ("_chat", "_events", "_parts", "_reply", "_url", "has_token", "is_done")

    def __init__(self, reply: Reply, url: str, chat: bool) -> None:
        self._reply, self._url, self._chat = reply, url, chat
        self._events = EventStream()
        self._parts: list[tuple[float, list[bytes]]] = []
        self.has_token = self.is_done = False

    def advance(self, content: bytes) -> None:
        """Read as far as it has to be by now. content: the last bytes. Raises QueryError, or MalformedReplyError."""
        if not self.has_token or ERROR in content:  # an error at once: the server may leave the connection open
            self._find_token_or_error(self._read(), ERROR in content)
        elif self._reply.may_be_over or DONE in content:
            self._read()

    def _find_token_or_error(self, events: Sequence[bytes], may_be_error: bool) -> None:
        """Decode up to the first token; all of them where one may be an error. Raises QueryError."""
        for event in events:
            if self.has_token and not may_be_error:
                break
            choices = None if event == DONE else self._chunk(event).choices
            self.has_token = self.has_token or (choices is not None and bool(choices) and choices[0].has_token(self._chat))

    def _read(self) -> list[bytes]:
        """The events that came since the last call."""
        new = []
        for now, content in self._reply.read():
            events = self._events.take(content)
            if b"" in events:  # some servers send empty data to keep a connection open
                events = [event for event in events if event]
            if events:
                self._parts.append((now, events))
                new += events
        self.is_done = self.is_done or DONE in new
        return new

    def stream(self) -> Stream:
        """Everything that has come. Raises QueryError."""
        self._read()
        events, times = list[bytes](), list[float]()
        for now, some in self._parts:
            events += some
            times += [now] * len(some)
        if self.is_done:
            events = events[: events.index(DONE)]
        stream = self._collect(events, times)
        if stream.finish_reason is None and not (self.is_done and stream.times):
            if self.is_done:
                raise QueryError(f"{self._url}: the stream ended without a delta or a finish_reason")
            raise QueryError(f"{self._url}: the stream was cut after {len(stream.times)} deltas, without a finish_reason or [DONE]")
        return stream

    def _collect(self, events: Sequence[bytes], times: Sequence[float]) -> Stream:
        stream, chat = Stream(), self._chat
        text, thoughts, token_times = stream.text, stream.thoughts, stream.times
        for chunk, event, now in zip(self._chunks(events), events, times, strict=False):
            if chunk.usage:
                stream.usage = chunk.usage
            if chunk.choices is None:
                self._without_choices(chunk, event)
                continue
            for choice in chunk.choices[:1]:
                delta = choice.delta
                piece = (None if delta is None else delta.content) if chat else choice.text
                if piece:
                    text.append(piece)
                    token_times.append(now)
                if delta is not None and (delta.reasoning_content or delta.reasoning or delta.tool_calls):
                    thoughts.append(delta.thought)
                    if not piece:
                        token_times.append(now)
                if choice.finish_reason:
                    stream.finish_reason, stream.finished = choice.finish_reason, now
        return stream

    def _chunks(self, events: Sequence[bytes]) -> Sequence[Chunk]:
        """All events decoded in one call, a third of the time of one by one; where that fails, one by one, to name the wrong one."""
        content = b"[" + b",".join(events) + b"]"
        try:
            if ERROR not in content and len(chunks := _CHUNKS(content)) == len(events):
                return chunks
        except (ValueError, RecursionError):
            pass
        return [self._chunk(event) for event in events]

    def _chunk(self, event: bytes) -> Chunk:
        text = event.decode(errors="replace")
        try:
            chunk = _CHUNK(text)
        except (ValueError, RecursionError):
            if isinstance(event, Named):
                return Chunk([])
            raise QueryError(f"{self._url}: malformed server-sent event: {text[:QUOTE_LENGTH]!r}") from None
        if chunk.error:
            status = self._reply.head.status if self._reply.head else 0
            raise QueryError(f"{self._url}: status {status}, then an error in the stream: {error_text({'error': chunk.error})}")
        return chunk

    def _without_choices(self, chunk: Chunk, event: bytes) -> None:
        """Raises QueryError unless the event needs none: one with a usage, or one of a type of its own, such as a ping."""
        if chunk.usage is None and not isinstance(event, Named):
            raise QueryError(f"{self._url}: a server-sent event without choices: {event.decode(errors='replace')[:QUOTE_LENGTH]!r}")


def _calls(calls: Any) -> str:
    """Names and arguments in calls of tools, or in what a delta adds to them."""
    functions = [call.get("function") for call in calls if isinstance(call, Mapping)] if isinstance(calls, list) else []
    parts = [f.get(name) for f in functions if isinstance(f, Mapping) for name in ("name", "arguments")]
    return "".join(part for part in parts if isinstance(part, str))
