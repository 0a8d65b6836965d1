"""Connections that servers keep, close and leave open, by a server that sends prepared bytes."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Sequence

import pytest
import torch

from configs.registry import make
from pipelines.endpoint.pipeline import Endpoint
from tests.pipelines.endpoint.fault_server import ask

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b'data: {"choices": [{"delta": {"content": "yes"}, "finish_reason": "stop"}]}\n\n'
LOST = b'data: {"error": {"message": "lost"}}\n\n'
DONE = b"data: [DONE]\n\n"
END = b"0\r\n\r\n"
WAIT, CLOSE = b"wait", b"close"


class PreparedServer:
    """Answers every request with the same pieces. num_connections: so far."""

    def __init__(self) -> None:
        self.pieces: Sequence[bytes] = ()
        self.num_connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection = self._listener.accept()[0]
            except OSError:
                return
            self.num_connections += 1
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            while request := connection.recv(65536):
                for piece in self.pieces if request.startswith(b"POST") else (b"HTTP/1.1 404 x\r\nContent-Length: 0\r\n\r\n",):
                    if piece == CLOSE:
                        return
                    time.sleep(0.1) if piece == WAIT else connection.sendall(piece)


@pytest.fixture
def prepared() -> Iterator[tuple[PreparedServer, Endpoint]]:
    server = PreparedServer()
    endpoint: Endpoint = make("pipelines", "endpoint", {"url": server.url, "model": "m", "count_by": "deltas", "timeout_s": 5})
    endpoint.load(torch.device("cpu"))
    server.num_connections = 0
    yield server, endpoint
    endpoint.close()
    server.stop()


def chunks(*contents: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(content), content) for content in contents)


@pytest.mark.parametrize(
    ("pieces", "num_connections"),
    [
        ((STREAM, chunks(EVENT), chunks(DONE) + END), 1),
        ((STREAM, chunks(EVENT, DONE), WAIT, END), 1),  # the answer is there before its response ends
        ((STREAM, chunks(EVENT, DONE) + END, CLOSE), 2),
        ((STREAM, chunks(EVENT, DONE) + END + b"what nobody requested"), 2),
        ((STREAM.replace(b"Transfer-Encoding: chunked", b"Connection: close"), EVENT, CLOSE), 2),
    ],
)
def test_a_connection_is_used_again_where_it_can_be(
    prepared: tuple[PreparedServer, Endpoint], pieces: Sequence[bytes], num_connections: int
) -> None:
    server, endpoint = prepared
    server.pieces = pieces
    for _ in range(2):
        (response,) = ask(endpoint, "?")
        assert (response.error, response.text) == (None, "yes")
        assert response.stages["after_answer"] < 0.1
        until = time.monotonic() + 0.2
        while time.monotonic() < until:
            endpoint.step(0.05)
    assert server.num_connections == num_connections


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ((STREAM, chunks(EVENT, LOST), *[WAIT] * 60), "status 200, then an error in the stream: lost"),
        ((CLOSE,), "the server closed the connection without an answer"),
        ((STREAM, b"60\r\nda", CLOSE), "the stream was cut after 0 deltas"),
        ((b"220 smtp.example.org ready\r\n\r\n",), "the answer is not HTTP/1.1: its status line is '220 smtp"),
    ],
)
def test_an_answer_that_cannot_be_is_an_error_at_once(
    prepared: tuple[PreparedServer, Endpoint], pieces: Sequence[bytes], message: str
) -> None:
    server, endpoint = prepared
    server.pieces, began = pieces, time.monotonic()
    (response,) = ask(endpoint, "?")
    assert message in str(response.error)
    assert server.url in str(response.error)
    assert time.monotonic() - began < 4
