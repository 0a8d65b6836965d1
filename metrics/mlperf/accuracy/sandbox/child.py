"""Runs one program that a model wrote, in a sandbox, and compares its answer. run_tests.py starts it as a process of its own.

Three processes. The first prepares what both others inherit, and in the end compares: restricted as the program was, because it reads what
the program wrote. The second watches the time; it is outside of the program's restrictions, so that the program cannot trace or signal it.
The third gives up every right that it does not need and then runs the program.

Layers of isolation. Each is used where the kernel allows it; if one that the job lists is refused, the program is not run:
  namespaces  a network without devices, and a process table of its own that ends with the program
  mounts      a file tree that holds Python's folders, read-only, and nothing else: file_tree.py
  user        started as root, the program runs as a user that owns nothing
  files       Landlock: nothing can be written, and only Python's folders can be read: landlock.py
  tcp         Landlock: no TCP connection; for machines without namespaces
  calls       seccomp: no system call but those that a program needs; no process, no socket: system_calls.py
Limits on every machine: CPU seconds, memory, size of output; number of threads, except for root.
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

from metrics.mlperf.accuracy.sandbox.compare import same_lines, same_value, write_value
from metrics.mlperf.accuracy.sandbox.file_tree import enter_file_tree
from metrics.mlperf.accuracy.sandbox.landlock import restrict_files
from metrics.mlperf.accuracy.sandbox.system_calls import restrict_system_calls

# How it ends: exit codes. A program's own exit code is FAILED, whatever its number, so that it cannot choose another.
PASSED, FAILED, WRONG, TOO_LARGE, TOO_COSTLY, NOT_ISOLATED, OUT_OF_TIME = 0, 1, 94, 95, 96, 97, 98
COMPARE_S = 10  # of CPU time. Ten million characters of JSON take 0.5 s
NOBODY = 65534
FIRST_USER = 2_000_000_000  # of a program's own users, one a process: no system or container manager assigns these
MAX_PROCESSES = 64  # threads count
# The imports that LiveCodeBench's runner puts before every program, in its order: later names hide earlier ones.
STARRED = ["string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics", "itertools"]
STARRED += ["functools", "operator", "io", "sys", "json", "builtins", "typing"]
NAMED = STARRED[:-2]

_NEW_NAMESPACES = 0x40000000 | 0x20000000 | 0x08000000  # network, process table, messages
_NEW_MOUNTS, _NEW_USER = 0x20000, 0x10000000
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_CAPABILITIES_VERSION = 0x20080522
_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Run the job in the file that the command line names, and exit by one of the codes above.

    A job without a program prints the layers of isolation that this machine provides.
    """
    os.umask(0o022)
    file = Path(sys.argv[1])
    job = json.loads(file.read_bytes())
    own_user = FIRST_USER + os.getpid()  # here, where no other process has this number
    # Read only after the program has ended: until then what this process knows, the program can find in its own memory.
    expected = os.open(file.with_name("expected"), os.O_RDONLY | os.O_CLOEXEC)
    file.with_name("expected").unlink()
    layers = _enter_namespaces(job["readable"], own_user)
    watch = os.fork()
    if watch == 0:
        os.close(expected)
        _watch(job, layers, own_user)
    code = os.waitstatus_to_exitcode(os.waitpid(watch, 0)[1])
    if job["code"] is None or code in (NOT_ISOLATED, OUT_OF_TIME):
        os._exit(code)
    if os.fstat(1).st_size >= job["output_bytes"]:
        os._exit(TOO_LARGE)
    if code:
        os._exit(FAILED)
    if set(job["isolation"]) - set(_restrict(job, layers, own_user, COMPARE_S)):
        os._exit(NOT_ISOLATED)
    os._exit(_compare(expected, functional=job["function"] is not None))


def run(job: dict[str, Any]) -> None:
    """Run the program to its end. Of a function: write its result to standard output and drop all prints."""
    space: dict[str, Any] = {"__name__": "__main__", "__builtins__": __builtins__}
    exec("".join(f"from {m} import *\n" for m in STARRED) + "".join(f"import {m}\n" for m in NAMED), space)
    sys.setrecursionlimit(50_000)
    if job["function"] is None:
        exec(compile(job["code"], "program.py", "exec"), space)
        return
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    exec(compile(job["code"], "program.py", "exec"), space)
    owner = space["Solution"]() if "class Solution" in job["code"] else None
    function = getattr(owner, job["function"]) if owner is not None else space[job["function"]]
    sys.set_int_max_str_digits(0)
    answers.write(write_value(function(*job["arguments"])))
    answers.close()


def _enter_namespaces(readable: list[str], own_user: int) -> list[str]:
    """Take namespaces and the file tree: with root's rights, else as the owner of a new user namespace."""
    layers = []
    rooted = os.getuid() == 0 and _libc.unshare(_NEW_NAMESPACES | _NEW_MOUNTS) == 0
    if not rooted and os.getuid() == 0 and _is_open(readable, parents=True):
        layers += _change_user(own_user)
    if not rooted:
        user, group = os.geteuid(), os.getegid()
        if _libc.unshare(_NEW_USER | _NEW_NAMESPACES | _NEW_MOUNTS) != 0:
            return layers
        with contextlib.suppress(OSError):  # without /proc there is no file tree
            Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
            Path("/proc/self/uid_map").write_text(f"{user} {user} 1", encoding="ascii")
            Path("/proc/self/gid_map").write_text(f"{group} {group} 1", encoding="ascii")
    layers.append("namespaces")
    return [*layers, "mounts"] if enter_file_tree(readable, Path.cwd()) else layers


def _watch(job: dict[str, Any], layers: list[str], own_user: int) -> None:
    """Start the program in a process of its own and exit when it ends or its time is up.

    With namespaces this is process 1 of the new process table, so the kernel kills whatever the program left running when it exits.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    ready, restricted = os.pipe()
    program = os.fork()
    if program == 0:
        os.close(ready)
        layers = _restrict(job, layers, own_user, job["seconds"] + 1)
        os.write(restricted, json.dumps(layers).encode())
        os.close(restricted)
        if job["code"] is not None and not set(job["isolation"]) - set(layers):
            run(job)
            sys.exit()
        os._exit(NOT_ISOLATED)
    os.close(restricted)
    with os.fdopen(ready, "rb") as pipe:
        layers = json.loads(pipe.read() or "[]")
    if job["code"] is None:
        os.write(1, json.dumps(layers).encode())
        os._exit(PASSED)
    if set(job["isolation"]) - set(layers):
        os._exit(NOT_ISOLATED)
    signal.signal(signal.SIGALRM, lambda *_: os._exit(OUT_OF_TIME))
    signal.alarm(job["seconds"])
    code = os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])
    os._exit(OUT_OF_TIME if code == -signal.SIGXCPU else FAILED if code else PASSED)


def _restrict(job: dict[str, Any], layers: list[str], own_user: int, cpu_seconds: int) -> list[str]:
    """Give up, for good, what neither a program nor a comparison needs. Returns the layers of isolation in force."""
    layers = list(layers)
    if os.getuid() == 0 and "user" not in layers and _is_open(job["readable"], parents="mounts" not in layers):
        layers += _change_user(own_user)
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # after the change of user, which clears it
    header, none = (ctypes.c_uint32 * 2)(_CAPABILITIES_VERSION, 0), (ctypes.c_uint32 * 6)()
    _libc.capset(header, none)
    # The kernel counts the processes of the user, or of the user namespace, so that nobody's would include those of other programs.
    own_count = os.getuid() >= FIRST_USER or (os.getuid() != 0 and "namespaces" in layers and "user" not in layers)
    for limit, value in (
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_AS, job["memory_bytes"]),
        (resource.RLIMIT_FSIZE, job["output_bytes"]),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_NPROC, MAX_PROCESSES if own_count else resource.RLIM_INFINITY),
    ):
        with contextlib.suppress(ValueError):  # the limit is lower already
            resource.setrlimit(limit, (value, value))
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    layers += restrict_files(job["readable"])
    return [*layers, "calls"] if restrict_system_calls() else layers


def _is_open(paths: list[str], parents: bool) -> bool:
    """Whether every user can read these folders, and enter those that they lie in."""
    wanted = {path: 0o005 if path.is_dir() else 0o004 for path in (Path(path).resolve() for path in paths)}
    if parents:
        wanted = {folder: 0o001 for path in wanted for folder in path.parents} | wanted
    return all(path.stat().st_mode & mode == mode for path, mode in wanted.items())


def _change_user(own: int) -> list[str]:
    """Become this user; where the container has no such user, nobody. Returns the layer, or nothing where neither can be had."""
    for user in (own, NOBODY):
        with contextlib.suppress(OSError):
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            return ["user"]
    return []


def _compare(expected: int, functional: bool) -> int:
    """Compare standard output, a file, with the expected one. Runs out of CPU time with SIGXCPU."""
    try:
        os.lseek(1, 0, os.SEEK_SET)
        written, wanted = (os.fdopen(file, "rb").read() for file in (1, expected))
        if functional:
            return PASSED if same_value(written, json.loads(wanted)) else WRONG
        return PASSED if same_lines(written.decode(errors="replace"), wanted.decode(errors="surrogatepass")) else WRONG
    except MemoryError:
        return TOO_COSTLY
