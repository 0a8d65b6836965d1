"""Responses of HTTP/1.1, wherever the network splits them."""

from __future__ import annotations

import pytest

from pipelines.endpoint.http_reply import MalformedReplyError, Reply

HEAD = b"HTTP/1.1 200 OK\r\nServer: x\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("content", "body", "keeps"),
    [
        (HEAD + b"Content-Length: 5\r\n\r\nhello", b"hello", True),
        (HEAD + b"Content-Length: 0\r\n\r\n", b"", True),
        (HEAD + b"Connection: close\r\nContent-Length: 2\r\n\r\nhi", b"hi", False),
        (CHUNKED + b"5\r\nhello\r\n4;a=b\r\n\r\n\r\n\r\n0\r\n\r\n", b"hello\r\n\r\n", True),
        (CHUNKED + b"B\r\nhello world\r\n0\r\nTrailer: x\r\n\r\n", b"hello world", True),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + CHUNKED + b"1\r\nx\r\n1\r\ny\r\n0\r\n\r\n", b"xy", True),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\ncontent-length: 1\r\n\r\nx", b"x", True),
    ],
)
def test_a_body_ends_where_it_says(content: bytes, body: bytes, keeps: bool) -> None:
    for size in (1, 2, 3, 7, len(content)):
        reply, found = Reply(), b""
        for start in range(0, len(content), size):
            assert not reply.over
            reply.add(content[start : start + size], float(start))
            if reply.head is not None and reply.may_be_over:
                found += b"".join(part for _, part in reply.read())
        assert (found, reply.over) == (body, True)
        assert reply.head is not None
        assert reply.head.keep_alive == keeps


def test_a_body_without_a_length_ends_with_its_connection() -> None:
    reply = Reply()
    reply.add(b"HTTP/1.1 200 OK\r\n\r\nhello", 1.0)
    assert [*reply.read()] == [(1.0, b"hello")]
    assert not reply.over
    assert reply.end()
    cut = Reply()
    cut.add(CHUNKED + b"5\r\nhel", 1.0)
    assert not cut.end()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"SSH-2.0-OpenSSH\r\n\r\n", "its status line is 'SSH-2.0-OpenSSH'"),
        (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", "the header line 'no colon'"),
        (HEAD + b"Content-Length: -1\r\n\r\n", "its content-length is '-1'"),
        (HEAD + b"Content-Encoding: gzip\r\n\r\n", "its content-encoding is 'gzip'"),
        (CHUNKED + b"xyz\r\nabc\r\n\r\n", "a chunk's length is b'xyz'"),
    ],
)
def test_what_is_no_response_is_refused(content: bytes, message: str) -> None:
    def read() -> None:
        reply = Reply()
        reply.add(content, 0.0)
        list(reply.read())

    with pytest.raises(MalformedReplyError, match=message):
        read()
