"""The HTTP server on a thread of its own: its port is bound at once, and it answers while the main thread loads the model."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from configs.errors import ConfigError

if TYPE_CHECKING:
    from aiohttp import web

CLOSING_S = 2.0  # time for responses in progress when the server is stopped
IDLE_S = 75.0  # a connection without a whole request is closed, as nginx does; aiohttp's own limit is an hour
GONE_S = 60  # after so long without a sign of life from its host, a connection is closed; Linux's own limits are hours
BACKLOG = 1024


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ConfigError where the address cannot be used."""
    try:
        family, _, _, _, address = min(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM), key=lambda one: one[0] != socket.AF_INET)
        listening = socket.create_server((str(address[0]), port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConfigError(f"--host {host} --port {port} cannot be used: {error.strerror}; give others") from None
    # Connections inherit these. A host that vanished while it was sent a stream, or while it was silent, never closes its own.
    for name, value in (
        ("TCP_USER_TIMEOUT", GONE_S * 1000),
        ("TCP_KEEPIDLE", GONE_S // 2),
        ("TCP_KEEPINTVL", GONE_S // 6),
        ("TCP_KEEPCNT", 3),
    ):
        if (option := getattr(socket, name, None)) is not None:
            listening.setsockopt(socket.IPPROTO_TCP, option, value)
    return listening


def url_of(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class HttpThread:
    """Serves an app until `close`. idle_s: for tests."""

    def __init__(self, make: Callable[[], web.Application], listening: socket.socket, idle_s: float = IDLE_S) -> None:
        self._make, self._listening, self._idle_s = make, listening, idle_s
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Wait until responses in progress have been sent, at most CLOSING_S."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(CLOSING_S + 3)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        from aiohttp import web

        runner = web.AppRunner(
            self._make(), handler_cancellation=True, shutdown_timeout=CLOSING_S, keepalive_timeout=self._idle_s, access_log=None
        )
        await runner.setup()
        await web.SockSite(runner, self._listening, backlog=BACKLOG).start()
        await self._stop.wait()
        await runner.cleanup()
