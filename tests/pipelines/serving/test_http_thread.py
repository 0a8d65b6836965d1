"""The port, and connections that their clients leave open."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs.errors import ConfigError
from pipelines.serving.app import make_app
from pipelines.serving.http_thread import HttpThread, bind
from pipelines.serving.state import ServerState
from pipelines.toy.llm import ToyLLM


@pytest.fixture
def port() -> Iterator[int]:
    """Of a server that is still loading, and closes idle connections after 0.3 s."""
    listening = bind("127.0.0.1", 0)
    http = HttpThread(lambda: make_app(ServerState(ToyLLM(), "toy", Path())), listening, idle_s=0.3)
    yield listening.getsockname()[1]
    http.close()


@pytest.mark.parametrize("sent", [b"", b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"])
def test_a_connection_without_a_whole_request_is_closed(port: int, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        began = time.perf_counter()
        connection.sendall(sent)
        assert connection.recv(1) == b""
        assert 0.2 < time.perf_counter() - began < 4


def test_a_port_that_is_taken_is_an_error() -> None:
    with bind("127.0.0.1", 0) as taken, pytest.raises(ConfigError, match=r"--port .* cannot be used: Address already in use"):
        bind("127.0.0.1", taken.getsockname()[1])
