"""A process that runs parts one after the other, and the end of it that the conductor holds.

A part may hang in a kernel, kill its process, or leave the device unusable for it; then the process goes, with all that it has started, and
the next part gets a new one. Messages are JSON: a part's name and job one way; its figures, and its end, the other.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from benchmarks.gpu.part import Job, NotRunError

GOES_WITHIN_S = 5.0


class Ended(NamedTuple):
    """ran: the part came to its end. why: where it did not."""

    ran: bool
    why: str | None


class Child:
    """process: the name that parts share it by."""

    def __init__(self, process: str) -> None:
        self.process = process
        self._ours, theirs = get_context("spawn").Pipe()
        self._process = get_context("spawn").Process(target=work, args=(theirs,), name=process, daemon=False)
        self._process.start()
        theirs.close()

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    def run(self, module: str, job: Job, keep: Callable[[str, Any], None]) -> Ended:
        """Has it run that part until the job's end; figures are passed on at once. Where it broke or was cut off, the child is gone."""
        begun = time.monotonic()
        try:
            self._ours.send_bytes(json.dumps({"module": module, "job": asdict(job)}).encode())
            while self._ours.poll(max(job.left_s, 0)):
                kind, *values = json.loads(self._ours.recv_bytes())
                if kind == "ended":
                    return Ended(*values)
                if kind == "broken":  # and with it, perhaps, the device for this process
                    self.kill()
                    return Ended(False, values[0])
                keep(*values)
        except (EOFError, OSError):
            self._process.join(GOES_WITHIN_S)
            code = self._process.exitcode
            how = f"by {signal.Signals(-code).name}" if code is not None and code < 0 else f"with {code}"
            return Ended(False, f"its process ended {how}")
        self.kill()
        return Ended(False, f"cut off after {time.monotonic() - begun:.0f} s")

    def close(self) -> None:
        """After its last part."""
        with contextlib.suppress(OSError):
            self._ours.send_bytes(b"null")
        self._process.join(GOES_WITHIN_S)
        self.kill()

    def kill(self) -> None:
        """With what it has started: it leads a group of its own."""
        if self._process.pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.join(GOES_WITHIN_S)
        self._ours.close()


def work(conductor: Connection) -> None:
    """The child: parts as they are asked for, until there are no more."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(2, 1)  # what libraries print; stdout is the conductor's

    def say(*message: Any) -> None:
        conductor.send_bytes(json.dumps(message).encode())

    while (asked := _heard(conductor)) is not None:
        job = Job(**asked["job"] | {"named": tuple(asked["job"]["named"])})
        try:
            importlib.import_module(asked["module"]).measure(job, lambda name, value: say("figure", name, value))
        except NotRunError as why:
            say("ended", False, str(why))
        except Exception as error:
            traceback.print_exc()
            say("broken", f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0]}")
            return
        else:
            say("ended", True, None)
        _free_memory()


def _heard(conductor: Connection) -> Any:
    try:
        return json.loads(conductor.recv_bytes())
    except EOFError:  # the conductor is gone
        return None


def _free_memory() -> None:
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
