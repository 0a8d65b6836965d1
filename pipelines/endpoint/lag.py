"""How late the client's event loop is: a message that arrives waits that long until its time is noted."""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import time

INTERVAL_S = 0.01
NANO = 1_000_000_000
CLOCK_MONOTONIC, NONBLOCK, CLOEXEC, ABSOLUTE = 1, os.O_NONBLOCK, getattr(os, "O_CLOEXEC", 0), 1


class LagProbe:
    """A timer of the kernel that makes a descriptor readable every INTERVAL_S, as a server's bytes would; its delay is the lag.

    asyncio's own timers are late by up to 1 ms on Linux, because epoll waits for whole milliseconds; elsewhere they are exact enough.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._due, self._last_s = time.perf_counter() + INTERVAL_S, 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._libc = ctypes.CDLL(None) if sys.platform == "linux" else None
        self._fd = self._libc.timerfd_create(CLOCK_MONOTONIC, NONBLOCK | CLOEXEC) if self._libc else -1
        if self._fd >= 0:
            loop.add_reader(self._fd, self._take)

    def start(self) -> None:
        """The loop runs from now on."""
        self._due, self._last_s = time.perf_counter() + INTERVAL_S, 0.0
        if self._fd >= 0 and self._libc is not None:
            times = (ctypes.c_long * 4)(0, int(INTERVAL_S * NANO), *divmod(int(self._due * NANO), NANO))
            self._libc.timerfd_settime(self._fd, ABSOLUTE, ctypes.byref(times), None)
        else:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_later(INTERVAL_S, self._take)

    def lag_s(self, now: float) -> float:
        """The delay at the last tick, or that of a tick which is overdue."""
        return max(self._last_s, now - self._due)

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _take(self) -> None:
        now, num_ticks = time.perf_counter(), 1
        if self._fd >= 0:
            try:
                num_ticks = int.from_bytes(os.read(self._fd, 8), sys.byteorder)
            except BlockingIOError:  # the timer was started again meanwhile
                return
        else:
            num_ticks = 1 + int((now - self._due) / INTERVAL_S)
            self._timer = self._loop.call_later(self._due + num_ticks * INTERVAL_S - now, self._take)
        self._last_s = now - self._due
        self._due += num_ticks * INTERVAL_S
