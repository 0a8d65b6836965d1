"""The conductor's process, from rank 0: started before any model is loaded; gets the test, returns its outcome."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from typing import Any

import msgspec

from configs.errors import RunError
from pipelines.launcher.conductor.job import JobSpec
from pipelines.launcher.messages import Address
from workloads.run_folder.claim import Claim

ABORT_S = 14.0  # how long the end of a test may take: LoadGen's release, the workers' goodbyes, and a margin


class ConductorProcess:
    """The child process that runs LoadGen. claim: on the run folder, whose lock the child shares: it may outlive this process."""

    def __init__(self, job: JobSpec, claim: Claim | None = None) -> None:
        env = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        command = [sys.executable, "-m", "pipelines.launcher.conductor"]
        locks = [claim.lock] if claim else []
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env, pass_fds=locks)
        assert self._process.stdin
        self._process.stdin.write(msgspec.json.encode(job).decode() + "\n")
        self._process.stdin.flush()
        self._outcome: dict[str, Any] | None = None
        self.address = msgspec.convert(self._line(), Address)

    def check(self) -> None:
        """Raises RunError where the process is gone."""
        if (code := self._process.poll()) is not None:
            raise RunError(_death(code))

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def outcome(self, timeout_s: float | None = None) -> dict[str, Any]:
        """Wait for the test's end. Raises RunError where the process is gone, or takes longer than `timeout_s`."""
        if self._outcome is None:
            self._outcome = self._line(timeout_s)
        return self._outcome

    def abort(self, why: str) -> dict[str, Any]:
        """End the test now, if it has not ended; its outcome, with `aborted` alone where the process was dead or stuck.

        why: becomes `aborted`, where a rank has not sent a reason before.
        """
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError, ValueError):  # dead, or aborted before
            self._process.stdin.write(why.replace("\n", " ") + "\n")
            self._process.stdin.close()
        try:
            return self.outcome(ABORT_S)
        except RunError as error:
            self._process.kill()
            self._process.wait()
            return {"aborted": str(error)}

    def _line(self, timeout_s: float | None = None) -> dict[str, Any]:
        assert self._process.stdout
        if not select.select([self._process.stdout], [], [], timeout_s)[0]:
            raise RunError(f"the conductor on {socket.gethostname()} hangs: it gave no outcome within {timeout_s:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise RunError(_death(self._process.wait()))
        document: dict[str, Any] = msgspec.json.decode(line)
        return document


def _death(code: int) -> str:
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}; its own message is above"
    return f"the conductor on {socket.gethostname()} died ({how})"
