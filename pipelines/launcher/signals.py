"""Signals that end a run."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def signals_as_interrupts() -> Iterator[None]:
    """SIGTERM, from a scheduler or from torch's launcher when another rank died, ends a run as Ctrl-C does: its records are kept.

    The first signal counts; its handling is short, and further ones do not interrupt it.
    """

    def interrupt(number: int, _: object) -> None:
        for one in caught:
            signal.signal(one, signal.SIG_IGN)
        raise KeyboardInterrupt(signal.Signals(number).name)

    caught = [s for s in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(s) != signal.SIG_IGN]
    before = [signal.signal(s, interrupt) for s in caught]
    yield  # after an error signals stay ignored: the report is still to be written
    for one, handler in zip(caught, before, strict=True):
        signal.signal(one, handler)
