"""A response of HTTP/1.1 as its bytes arrive: its head, and its body without the framing.

Bytes are kept with the time at which they came, and taken apart only when somebody reads: while answers are timed, that is up to the
first token and at the end. Source: RFC 9112.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import NamedTuple

MAX_HEAD = 65_536  # bytes
NO_BODY = (204, 304)


class MalformedReplyError(Exception):
    """The bytes are no response of HTTP/1.1."""


class Head(NamedTuple):
    """length: of the body, where the server says. keep_alive: the connection can carry another request."""

    status: int
    reason: str
    headers: Mapping[str, str]
    length: int | None
    chunked: bool
    keep_alive: bool

    @property
    def content_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


@functools.lru_cache(maxsize=256)  # a server sends the same head many times a second
def parse_head(content: bytes) -> Head:
    """content: without the empty line at its end. Raises MalformedReplyError."""
    first, *lines = content.decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    code, _, reason = rest.partition(" ")
    if version not in ("HTTP/1.1", "HTTP/1.0") or len(code) != 3 or not code.isascii() or not code.isdigit():
        raise MalformedReplyError(f"its status line is {first[:80]!r}")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise MalformedReplyError(f"it has the header line {line[:80]!r}")
        name, value = name.lower(), value.strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    coding = headers.get("transfer-encoding", "").lower()
    if coding not in ("", "chunked"):
        raise MalformedReplyError(f"its transfer-encoding is {coding[:80]!r}; only chunked is known")
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise MalformedReplyError(f"its content-encoding is {headers['content-encoding'][:80]!r}, which was not requested")
    number = headers.get("content-length")
    if number is not None and not (number.isascii() and number.isdigit()):
        raise MalformedReplyError(f"its content-length is {number[:80]!r}")
    status, connection = int(code), headers.get("connection", "").lower()
    length = 0 if status in NO_BODY else None if coding or number is None else int(number)
    keeps = "close" not in connection and (version == "HTTP/1.1" or "keep-alive" in connection)
    return Head(status, reason.strip(), headers, length, bool(coding) and length is None, keeps and (bool(coding) or length is not None))


class Reply:
    """head: None until it is there. began: when it was. over: the last byte was read."""

    __slots__ = ("_body", "_dechunk", "_excess", "_left", "_rest", "_tail", "began", "head", "over")

    def __init__(self) -> None:
        self.head: Head | None = None
        self.over = False
        self.began = 0.0
        self._rest = b""  # of a head
        self._body: list[tuple[float, bytes]] = []  # what was not read yet, with its framing
        self._tail = b""
        self._left: int | None = None  # bytes that a length leaves
        self._dechunk = Chunks()
        self._excess = False

    def add(self, content: bytes, now: float) -> None:
        """More bytes, and when they came. Raises MalformedReplyError."""
        if self.head is None:
            content = self._rest + content
            while self.head is None:
                end = content.find(b"\r\n\r\n")
                if end < 0:
                    if len(content) > MAX_HEAD:
                        raise MalformedReplyError(f"its head is longer than {MAX_HEAD} bytes")
                    self._rest = content
                    return
                head, content = parse_head(content[:end]), content[end + 4 :]
                if head.status >= 200:  # 1xx: the response is still to come
                    self.head = head
            self.began, self._rest, self._left = now, b"", self.head.length
            self.over = self._left == 0
        if content:
            self._body.append((now, content))
            self._tail = content if len(content) > 3 else self._tail[-4:] + content

    @property
    def may_be_over(self) -> bool:
        """False: the end is not there yet. True: `read` will tell. Quick, for every piece of a stream."""
        if self.over or self.head is None or not self.head.chunked:
            return True
        return self._tail.endswith(b"\r\n\r\n")

    def read(self) -> Iterator[tuple[float, bytes]]:
        """What has come of the body since the last call, with its times. Raises MalformedReplyError."""
        assert self.head is not None
        pieces, self._body = self._body, []
        for now, content in pieces:
            if self.head.chunked:
                content = self._dechunk.take(content)
                self.over = self._dechunk.over
            elif self._left is not None:
                self._excess = self._excess or len(content) > self._left
                content = content[: self._left]
                self._left -= len(content)
                self.over = self._left == 0
            if content:
                yield now, content

    @property
    def has_excess(self) -> bool:
        """Whether bytes follow the end, so that the connection cannot be used again."""
        return self._excess or self._dechunk.has_excess or bool(self._body)

    def end(self) -> bool:
        """The connection was closed; whether that is a proper end of the response."""
        self.over = self.over or (self.head is not None and not self.head.chunked and self.head.length is None)
        return self.over


class Chunks:
    """Takes the chunked transfer coding off. over: the last chunk and its trailer are there. has_excess: something follows them."""

    __slots__ = ("_last", "_left", "_rest", "has_excess", "over")

    def __init__(self) -> None:
        self._rest = b""  # of a line
        self._left = 0  # bytes to come of the chunk and the line end behind it
        self._last = False
        self.over = self.has_excess = False

    def take(self, content: bytes) -> bytes:
        """Raises MalformedReplyError."""
        if content and not (self._left or self._rest or self._last) and (body := self._take_whole(content)) is not None:
            return body
        found = []
        if self._left:
            if len(content) < self._left:
                found.append(content[: max(0, self._left - 2)])
                self._left -= len(content)
                return found[0]
            found.append(content[: max(0, self._left - 2)])
            content, self._left = content[self._left :], 0
        if self._rest:
            content, self._rest = self._rest + content, b""
        at, size = 0, len(content)
        while not self.over and (end := content.find(b"\r\n", at)) >= 0:
            if self._last:  # the trailer, up to its empty line
                self.over, at = end == at, end + 2
                continue
            if (length := chunk_length(content[at:end])) < 0:
                raise MalformedReplyError(f"a chunk's length is {content[at:end][:40]!r}")
            start = end + 2
            if length == 0:
                self._last, at = True, start
                continue
            found.append(content[start : start + length])
            at = start + length + 2
            if at > size:
                self._left = at - size
                break
        self.has_excess = self.has_excess or (self.over and at < size)
        if at < size and not self.over:
            self._rest = content[at:]
            if len(self._rest) > MAX_HEAD:
                raise MalformedReplyError("a chunk has no length")
        return found[0] if len(found) == 1 else b"".join(found)

    def _take_whole(self, content: bytes) -> bytes | None:
        """Of whole chunks without line ends in them, 6 times as quick; None where the content is something else."""
        lines = content.split(b"\r\n")
        if lines.pop() or len(lines) % 2:
            return None
        bodies, lengths = lines[1::2], list(map(chunk_length, lines[::2]))
        if lengths != list(map(len, bodies)) or 0 in lengths[:-1]:
            return None
        self.over = self._last = not lengths[-1]
        return b"".join(bodies)


@functools.lru_cache(maxsize=4096)
def chunk_length(line: bytes) -> int:
    """-1 where it is none."""
    try:
        return max(-1, int(line.partition(b";")[0], 16))
    except ValueError:
        return -1
