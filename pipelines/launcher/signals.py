"""Signals that end a run, also where the main thread waits in C++.

Python runs a signal's handler in the main thread, once that is back from C++. From a rendezvous with a rank that never comes, or a
collective with one that hangs, it does not come back for minutes. A thread of its own therefore reads the number of the signal from
Python's wakeup descriptor, and ends the process where the main thread does not. It also ends a rank whose launcher is gone.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator

from configs.output import say
from pipelines.distributed.ranks import launcher_process

GRACE_S = 2.0  # how long the main thread may take to run a signal's handler
END_S = 60.0  # and then to end the run
LOOK_EVERY_S = 1.0  # whether the launcher is still there
EXIT_INTERRUPTED = 130

_acts: list[Callable[[str], object]] = []


@contextlib.contextmanager
def where_stuck(act: Callable[[str], object]) -> Iterator[None]:
    """While this lasts, call `act` with the cause, in another thread, before a process is ended whose main thread is stuck."""
    _acts.append(act)
    try:
        yield
    finally:
        _acts.remove(act)


@contextlib.contextmanager
def signals_as_interrupts() -> Iterator[None]:
    """SIGTERM, from a scheduler or from torch's launcher when another rank died, ends a run as Ctrl-C does: its records are kept.

    The first signal counts; its handling is short, and further ones do not interrupt it. The end of the launcher counts as one.
    """
    watch = _Watch(launcher_process())

    def interrupt(number: int, _: object) -> None:
        for one in caught:
            signal.signal(one, signal.SIG_IGN)
        watch.handled.set()
        raise KeyboardInterrupt(watch.cause or signal.Signals(number).name)

    caught = [s for s in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(s) != signal.SIG_IGN]
    before = [signal.signal(s, interrupt) for s in caught]
    woken = signal.set_wakeup_fd(watch.wake, warn_on_full_buffer=False)
    watch.start()
    try:
        yield  # after an error signals stay ignored: the report is still to be written
        for one, handler in zip(caught, before, strict=True):
            signal.signal(one, handler)
    finally:
        signal.set_wakeup_fd(woken)
        watch.stop()


class _Watch(threading.Thread):
    """cause: of the end, where it is no signal. handled: set when the main thread has run the handler. wake: signals' numbers go there."""

    def __init__(self, launcher: int | None) -> None:
        super().__init__(daemon=True, name="signals")
        self.cause: str | None = None
        self.handled = threading.Event()
        self._launcher = launcher
        self._read, self.wake = os.pipe()
        os.set_blocking(self.wake, False)
        self._over = threading.Event()

    def stop(self) -> None:
        self._over.set()
        os.write(self.wake, b"\0")
        self.join()
        os.close(self._read)
        os.close(self.wake)

    def run(self) -> None:
        if (cause := self._wait()) is None or (self.handled.wait(GRACE_S) and self._over.wait(END_S)):
            return
        if self._over.is_set():
            return
        for act in reversed(_acts):
            with contextlib.suppress(Exception):
                act(cause)
        say(f"interrupted by {cause}: rank {os.environ.get('RANK', '0')} on {socket.gethostname()} waited outside of Python and ends")
        os._exit(EXIT_INTERRUPTED)

    def _wait(self) -> str | None:
        """What ends the run; None where it ends by itself."""
        while True:
            if select.select([self._read], [], [], LOOK_EVERY_S)[0]:
                number = os.read(self._read, 1)[0]
                if number == 0:
                    return None
                if number in (signal.SIGTERM, signal.SIGINT):
                    return signal.Signals(number).name
            elif self._launcher not in (None, os.getppid()):
                self.cause = f"the end of its launcher (process {self._launcher})"
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
                return self.cause
