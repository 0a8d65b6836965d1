"""A child process that runs parts one after another, and the conductor's handle of it.

A part may hang in a kernel, kill its process, or make the device unusable for it. Then the process is killed with all that it started, and
the next part gets a new one. Messages are JSON: a part's name and job to the child; figures, and the end of the part, back.
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

EXIT_TIMEOUT_S = 5.0


class Ended(NamedTuple):
    """ran: whether the part ran to its end. why: the reason if it did not."""

    ran: bool
    why: str | None


class Child:
    """process: its name; parts with the same name share a process."""

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
        """Run a part, at most until the job's end, and pass figures on immediately. If it broke or was cut off, the child is killed."""
        start = time.monotonic()
        try:
            self._ours.send_bytes(json.dumps({"module": module, "job": asdict(job)}).encode())
            while self._ours.poll(max(job.left_s, 0)):
                kind, *values = json.loads(self._ours.recv_bytes())
                if kind == "ended":
                    return Ended(*values)
                if kind == "broken":  # the device may be unusable for this process too
                    self.kill()
                    return Ended(False, values[0])
                keep(*values)
        except (EOFError, OSError):
            self._process.join(EXIT_TIMEOUT_S)
            code = self._process.exitcode
            how = f"by {signal.Signals(-code).name}" if code is not None and code < 0 else f"with {code}"
            return Ended(False, f"its process ended {how}")
        self.kill()
        return Ended(False, f"cut off after {time.monotonic() - start:.0f} s")

    def close(self) -> None:
        """End the child after its last part."""
        with contextlib.suppress(OSError):
            self._ours.send_bytes(b"null")
        self._process.join(EXIT_TIMEOUT_S)
        self.kill()

    def kill(self) -> None:
        """Kill the child and what it started: it leads a process group."""
        if self._process.pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.join(EXIT_TIMEOUT_S)
        self._ours.close()


def work(conductor: Connection) -> None:
    """The child's main function: run the requested parts until there are no more."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(2, 1)  # libraries may print to stdout, which is the conductor's

    def send(*message: Any) -> None:
        conductor.send_bytes(json.dumps(message).encode())

    while (request := _receive(conductor)) is not None:
        job = Job(**request["job"] | {"named": tuple(request["job"]["named"])})
        try:
            importlib.import_module(request["module"]).measure(job, lambda name, value: send("figure", name, value))
        except NotRunError as why:
            send("ended", False, str(why))
        except Exception as error:
            traceback.print_exc()
            send("broken", f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0]}")
            return
        else:
            send("ended", True, None)
        _free_memory()


def _receive(conductor: Connection) -> Any:
    try:
        return json.loads(conductor.recv_bytes())
    except EOFError:  # the conductor is gone
        return None


def _free_memory() -> None:
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
