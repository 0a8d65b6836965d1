"""The conductor's process: reads a JobSpec from standard input, runs the test, writes the outcome to standard output."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile

import msgspec
import zmq

from configs.errors import SuiteError
from configs.output import handle_errors_and_warnings, say
from pipelines.launcher.brief_report import report_briefly
from pipelines.launcher.conductor.conductor import Conductor
from pipelines.launcher.conductor.job import JobSpec
from pipelines.launcher.conductor.sockets import listen, listen_across_nodes
from workloads.run_folder.files import write_outcome

SWITCH_S = 0.001  # how long one thread may hold the interpreter; the default is five times that


def main() -> None:
    """Exits at once even where an aborted LoadGen still sleeps."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which closes our input
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    handle_errors_and_warnings()
    if not (line := sys.stdin.readline()):
        return  # rank 0 died
    job = msgspec.json.decode(line, type=JobSpec)
    sys.setswitchinterval(SWITCH_S)
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.ROUTER_HANDOVER, 1)
    router.setsockopt(zmq.ROUTER_MANDATORY, 1)  # sending to a process that is gone is an error,
    router.setsockopt(zmq.SNDHWM, 0)  # and sending to one that is stopped does not block
    with tempfile.TemporaryDirectory(prefix="triptych-", ignore_cleanup_errors=True) as folder:
        guard = None
        if job.host is None:
            address = listen(router, folder)
        else:
            address, guard = listen_across_nodes(router, job.host, job.port)
        print(msgspec.json.encode(address).decode(), flush=True)
        try:
            conductor = Conductor(job, router, sys.stdin)
        except SuiteError as error:
            say(str(error))
            router.close(linger=0)
            if guard:
                guard.stop()
            raise SystemExit(1) from None
        outcome = conductor.run()
        stopped = conductor.has_stopped_parent
        if conductor.is_orphan or stopped:
            write_outcome(conductor.folder, job.mode, outcome)
            report_briefly(conductor.folder)
            if stopped:
                say(f"the run was given up: {outcome['aborted']}; rank 0 is killed")
                os.kill(os.getppid(), signal.SIGKILL)  # its launcher, which waits for it, ends the others
        router.close(linger=1000)
        if guard:
            guard.stop()
        with contextlib.suppress(BrokenPipeError):  # the parent may be dead
            print(msgspec.json.encode(outcome).decode(), flush=True)
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
