"""Connections to one server, kept alive: HTTP/1.1 on asyncio's protocols, with the time at which bytes arrive.

A request is one write of bytes that are ready, and nothing is made for it but its Receiver. aiohttp and httpx cost several times the CPU
of the whole rest of the client: see benchmarks/endpoint_client.py.
"""

from __future__ import annotations

import asyncio
import ssl
import time
import urllib.parse
from typing import Any, NamedTuple, Protocol

from pipelines.endpoint.errors import CutError, QueryError, connect_error
from pipelines.endpoint.http_reply import Head, MalformedReplyError, Reply

KEEP_ALIVE_S = 4.0  # uvicorn, which vLLM and SGLang use, closes an idle connection after 5 s, and a request sent at that moment is lost
DRAIN_S = 1.0  # how long a server may take to end a response whose last event was there


class Receiver(Protocol):
    """Takes one response. reply: the bytes so far."""

    reply: Reply

    def feed(self, content: bytes, now: float) -> bool:
        """More bytes; whether nothing more is needed. Raises QueryError or MalformedReplyError."""

    def finish(self, error: Exception | None) -> None:
        """Called once. error: why the response is not whole; None where it is."""


class Connection(asyncio.Protocol):
    """One connection of a Server's. It has a receiver while a request is under way."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._request: bytes | None = None  # to be sent when the connection is there
        self._receiver: Receiver | None = None
        self._draining: Reply | None = None
        self._opening: asyncio.Task[Any] | None = None
        self.idle_since = 0.0

    def send(self, request: bytes, receiver: Receiver) -> None:
        self._receiver = receiver
        if self._transport is None:
            self._request = request
            self._opening = self._server.loop.create_task(self._open())
        else:
            self._transport.write(request)

    def cancel(self) -> None:
        """Give up the request under way; its receiver is not told."""
        self._receiver = None
        self.close()

    def close(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
        if self._transport is not None:
            self._transport.abort()

    async def _open(self) -> None:
        server = self._server
        try:
            async with asyncio.timeout(server.connect_timeout_s):
                await server.loop.create_connection(lambda: self, server.host, server.port, ssl=server.tls)
        except (OSError, ssl.SSLError, ValueError) as error:  # ValueError: of a host name that is none
            self._end(connect_error(error, server.url, server.connect_timeout_s))
        finally:
            self._opening = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._server.open.add(self)
        if self._receiver is None:
            transport.abort()
        elif self._request is not None:
            transport.write(self._request)
            self._request = None

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        receiver = self._receiver
        if receiver is None:
            self._drain(data, now)
            return
        try:
            if not receiver.feed(data, now):
                return
        except MalformedReplyError as error:
            self._fail(QueryError(f"{self._server.url}: the answer is not HTTP/1.1: {error}"))
        except QueryError as error:
            self._fail(error)
        except Exception as error:  # a bug here, or an unforeseen reply: only this query fails
            self._fail(QueryError(f"{self._server.url}: {type(error).__name__}: {error}"))
        else:
            reply = receiver.reply
            if reply.over:
                self._release(reply)
            else:
                self._draining = reply
                self._server.loop.call_later(DRAIN_S, self._stop_draining, reply)
            self._end(None)

    def eof_received(self) -> bool:
        receiver = self._receiver
        if receiver is not None and receiver.reply.end():
            self._end(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.open.discard(self)
        if self in self._server.idle:
            self._server.idle.remove(self)
        self._transport = None
        if self._receiver is not None:
            if self._receiver.reply.head is None:
                self._end(QueryError(f"{self._server.url}: the server closed the connection without an answer", retryable=True))
            else:
                self._end(CutError(f"{self._server.url}: the answer was cut short"))

    def _drain(self, data: bytes, now: float) -> None:
        """The end of a response that nobody waits for. What comes when nothing was requested makes the connection unusable."""
        reply = self._draining
        try:
            if reply is None:
                raise MalformedReplyError("it was not requested")
            reply.add(data, now)
            if reply.may_be_over:
                for _ in reply.read():
                    pass
            if reply.over:
                self._draining = None
                self._release(reply)
        except MalformedReplyError:
            self.close()

    def _stop_draining(self, reply: Reply) -> None:
        if self._draining is reply:
            self.close()

    def _release(self, reply: Reply) -> None:
        assert reply.head is not None
        usable = reply.head.keep_alive and not reply.has_excess
        if usable and self._transport is not None and not self._transport.is_closing():
            self.idle_since = time.perf_counter()
            self._server.idle.append(self)
        else:
            self.close()

    def _fail(self, error: QueryError) -> None:
        self._end(error)
        self.close()

    def _end(self, error: Exception | None) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.finish(error)


class Server:
    """One url. idle: connections that can be used, the last one used at the end. open: all of them."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, url: str, tls: ssl.SSLContext | None, key: str | None, connect_timeout_s: float
    ) -> None:
        self.loop, self.url, self.connect_timeout_s = loop, url, connect_timeout_s
        parts = urllib.parse.urlsplit(url)
        secure = parts.scheme == "https"
        self.tls = tls if secure else None
        assert not secure or tls is not None
        self.host, self.port = parts.hostname or "", parts.port or (443 if secure else 80)
        self.idle: list[Connection] = []
        self.open: set[Connection] = set()
        self._path = urllib.parse.quote(parts.path, safe="/%:@!$&'()*+,;=~-._")
        host = f"[{self.host}]" if ":" in self.host else self.host
        self._head = f"Host: {host}{f':{parts.port}' if parts.port else ''}\r\nUser-Agent: triptych\r\nAccept: */*\r\n"
        if key:
            self._head += f"Authorization: Bearer {key}\r\n"

    def head(self, method: str, path: str, *more: str) -> bytes:
        """The head of a request, still without its Content-Length and empty line."""
        return "".join([f"{method} {self._path}{path} HTTP/1.1\r\n", self._head, *(f"{line}\r\n" for line in more)]).encode()

    def send(self, request: bytes, receiver: Receiver) -> Connection:
        """Send over an idle connection or a new one."""
        oldest = time.perf_counter() - KEEP_ALIVE_S
        connection = None
        while self.idle and connection is None:
            connection = self.idle.pop()
            if connection.idle_since < oldest:
                connection.close()
                connection = None
        connection = connection or Connection(self)
        connection.send(request, receiver)
        return connection

    async def fetch(self, head: bytes, body: bytes | None = None, then_close: bool = False) -> Fetched:
        """The response to one request. Raises QueryError."""
        receiver = _Waiting(self.loop.create_future())
        length = b"" if body is None else b"Content-Length: %d\r\n" % len(body)
        connection = self.send(head + length + b"\r\n" + (body or b""), receiver)
        try:
            await receiver.done
        except asyncio.CancelledError:
            connection.cancel()
            raise
        if then_close:
            connection.close()
        assert receiver.reply.head is not None
        return Fetched(receiver.reply.head, receiver.whole.body(), receiver.reply.began)

    def close(self) -> None:
        for connection in [*self.open]:
            connection.close()


class Fetched(NamedTuple):
    """A whole response. began: when its head arrived."""

    head: Head
    content: bytes
    began: float


class Whole:
    """Collects the body of a reply."""

    __slots__ = ("_parts", "reply")

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self._parts: list[bytes] = []

    def take(self) -> bool:
        """Read what has come; whether that was all. Raises MalformedReplyError."""
        if self.reply.head is None or not self.reply.may_be_over:
            return False
        self._parts += [part for _, part in self.reply.read()]
        return self.reply.over

    def body(self) -> bytes:
        """Raises MalformedReplyError."""
        self.take()
        return b"".join([*self._parts, *(part for _, part in self.reply.read())])


class _Waiting:
    """A response that a coroutine awaits."""

    def __init__(self, done: asyncio.Future[None]) -> None:
        self.reply, self.done = Reply(), done
        self.whole = Whole(self.reply)

    def feed(self, content: bytes, now: float) -> bool:
        self.reply.add(content, now)
        return self.whole.take()

    def finish(self, error: Exception | None) -> None:
        if self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)
