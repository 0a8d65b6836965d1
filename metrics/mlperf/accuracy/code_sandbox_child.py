"""Runs one program that a model wrote, in a sandbox. code_sandbox.py starts it as a process of its own; it imports nothing of the suite.

    python -I code_sandbox_child.py JOB      run what JOB (a JSON file) describes; the program reads standard input
    python -I code_sandbox_child.py --probe READABLE..    print the layers of isolation that this machine provides, as JSON

Layers of isolation. Each is used where the kernel allows it; if one that the job lists is refused, the exit code is 97:
  namespaces  a network without devices, and a process table of its own that ends with the program
  files       Landlock: nothing can be written, and only Python's folders can be read
  tcp         Landlock: no TCP connection; for machines without namespaces
  user        started as root, the program runs as nobody
Limits on every machine: CPU seconds, memory, size of output; number of processes, except for root.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

NOT_ISOLATED, OUT_OF_TIME = 97, 98
NOBODY = 65534
MAX_PROCESSES = 64  # threads count
# The imports that LiveCodeBench's runner puts before every program, in its order: later names hide earlier ones.
STARRED = ["string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics", "itertools"]
STARRED += ["functools", "operator", "io", "sys", "json", "builtins", "typing"]
NAMED = STARRED[:-2]

_NEW_NAMESPACES = 0x10000000 | 0x40000000 | 0x20000000 | 0x08000000  # user, network, process table, messages
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446  # system calls, the same on every architecture
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}  # by the first version of Landlock that has them
_libc = ctypes.CDLL(None, use_errno=True)


class _Ruleset(ctypes.Structure):
    _fields_ = [("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64)]


class _PathRule(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32)]


def main() -> None:
    if sys.argv[1] == "--probe":
        json.dump(isolate(sys.argv[2:]), sys.stdout)
        return
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    layers = isolate(job["readable"])
    if set(job["isolation"]) - set(layers):
        os._exit(NOT_ISOLATED)
    _limit(job, counts_own_processes="namespaces" in layers or "user" in layers)
    _fork_under_supervision(job["seconds"])
    run(job)


def isolate(readable: list[str]) -> list[str]:
    """Apply every layer of isolation that the kernel allows, and return their names."""
    layers = []
    if os.getuid() == 0 and all(_open_to_all(path) for path in readable):
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        layers.append("user")
    if _libc.unshare(_NEW_NAMESPACES) == 0:
        layers.append("namespaces")
    return layers + _landlock(readable)


def run(job: dict[str, Any]) -> None:
    """Run the program to its end. Of a function: write the repr of its result to standard output and drop all prints."""
    space: dict[str, Any] = {"__name__": "__main__", "__builtins__": __builtins__}
    exec("".join(f"from {m} import *\n" for m in STARRED) + "".join(f"import {m}\n" for m in NAMED), space)
    sys.setrecursionlimit(50_000)
    if job["function"] is None:
        exec(compile(job["code"], "program.py", "exec"), space)
        return
    answers = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    exec(compile(job["code"], "program.py", "exec"), space)
    owner = space["Solution"]() if "class Solution" in job["code"] else None
    function = getattr(owner, job["function"]) if owner is not None else space[job["function"]]
    sys.set_int_max_str_digits(0)
    os.write(answers, repr(function(*job["arguments"])).encode())


def _limit(job: dict[str, Any], counts_own_processes: bool) -> None:
    for limit, value in (
        (resource.RLIMIT_CPU, job["seconds"] + 1),
        (resource.RLIMIT_AS, job["memory_bytes"]),
        (resource.RLIMIT_FSIZE, job["output_bytes"]),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
        (
            resource.RLIMIT_NPROC,
            MAX_PROCESSES if counts_own_processes else resource.RLIM_INFINITY,
        ),  # otherwise all processes of the user count
    ):
        with contextlib.suppress(ValueError):  # the limit is lower already
            resource.setrlimit(limit, (value, value))


def _fork_under_supervision(seconds: int) -> None:
    """Continue in a grandchild process. Its parent enforces the time limit.

    With namespaces the parent is process 1 of the new process table, so the kernel kills whatever the program left running when it exits.
    """
    _wait_for_child()
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    child = os.fork()
    if child == 0:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        return
    signal.signal(signal.SIGALRM, lambda *_: os._exit(OUT_OF_TIME))
    signal.alarm(seconds)
    _exit_like(child)


def _wait_for_child() -> None:
    if child := os.fork():
        _exit_like(child)


def _exit_like(child: int) -> None:
    _, status = os.waitpid(child, 0)
    os._exit(os.waitstatus_to_exitcode(status) % 256)


def _open_to_all(path: str) -> bool:
    """Whether every user can enter the folder."""
    return all(folder.stat().st_mode & 0o001 for folder in (Path(path).resolve(), *Path(path).resolve().parents) if folder.is_dir())


def _landlock(readable: list[str]) -> list[str]:
    version = _libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    if version < 1:
        return []
    rights = _FILE_RIGHTS[max(v for v in _FILE_RIGHTS if v <= version)]
    rules = _Ruleset(rights, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 8 * (1 + (version >= 4) + (version >= 6))
    ruleset = _libc.syscall(_LANDLOCK_CREATE, ctypes.byref(rules), ctypes.c_size_t(size), ctypes.c_uint32(0))
    if ruleset < 0:
        return []
    for path, allowed in [*((p, _EXECUTE | _READ_FILE | _READ_DIR) for p in readable), ("/dev/null", _READ_FILE | _WRITE_FILE)]:
        try:
            opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        rule = _PathRule(allowed & rights, opened)
        _libc.syscall(_LANDLOCK_ADD, ruleset, ctypes.c_int(1), ctypes.byref(rule), ctypes.c_uint32(0))
        os.close(opened)
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if _libc.syscall(_LANDLOCK_RESTRICT, ruleset, ctypes.c_uint32(0)) != 0:
        return []
    os.close(ruleset)
    return ["files", "tcp"] if version >= 4 else ["files"]


if __name__ == "__main__":
    main()
