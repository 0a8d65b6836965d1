"""Which ranks have not come, while the others wait for them.

Ranks find each other through a store on the first one's host, which holds every rank until the last one is there, for ten minutes and more,
and says nothing. Each rank therefore leaves its name in that store, by a connection of its own, and the first that waits names the missing.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from datetime import timedelta

from configs.output import say

PATIENCE_S = 60.0
RETRY_S = 1.0


@contextlib.contextmanager
def roll_call() -> Iterator[None]:
    """While ranks wait for each other, say after PATIENCE_S which one is missing."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield
        return
    joined = threading.Event()
    arguments = (int(os.environ["RANK"]), world_size, os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), joined)
    threading.Thread(target=_call, args=arguments, daemon=True, name="roll-call").start()
    try:
        yield
    finally:
        joined.set()


def _call(rank: int, world_size: int, host: str, port: int, joined: threading.Event) -> None:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    here = f"rank {rank} of {world_size}, on {socket.gethostname()}, waits"
    give_up = time.monotonic() + PATIENCE_S
    while not _answers(host, port):  # torch's own attempt prints a page of C++ when it fails
        if joined.wait(RETRY_S):
            return
        if time.monotonic() > give_up:
            say(f"{here} for rank 0: nothing answers at {host}:{port} (MASTER_ADDR, MASTER_PORT) for {PATIENCE_S:.0f} s")
            return
    try:
        store = TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=PATIENCE_S))
        store.set(_key(rank), socket.gethostname())
        if joined.wait(PATIENCE_S):
            return
        present = [other for other in range(world_size) if store.check([_key(other)])]
    except RuntimeError:
        return  # the store is gone: torch says so in the main thread
    missing = [str(other) for other in range(world_size) if other not in present]
    if missing and rank == present[0] and not joined.is_set():
        which = f"rank {missing[0]}" if len(missing) == 1 else f"ranks {', '.join(missing)}"
        say(f"{here} for {which}, not there after {PATIENCE_S:.0f} s: not started, or without a connection to {host}:{port}")


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=RETRY_S).close()
    except OSError:
        return False
    return True


def _key(rank: int) -> str:
    return f"triptych-rank-{rank}"
