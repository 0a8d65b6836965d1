"""Programs that try to get out of the sandbox: each attempt is made in one, and must be refused there."""

from __future__ import annotations

import functools
import os
import platform
from collections.abc import Mapping
from pathlib import Path

import pytest

from metrics.mlperf.accuracy.sandbox.run_tests import isolation, run_tests
from tests.metrics.mlperf.accuracy.programs import LIMITS, stdin, strong

with_tree = pytest.mark.skipif("mounts" not in isolation(), reason="the kernel grants no mount namespace")

# A raw system call, which goes around all that Python and the C library refuse by themselves.
RAW = """
import ctypes, os, socket, struct, sys, threading
libc, EMPTY = ctypes.CDLL(None, use_errno=True), bytes(16)
def raw(number, *arguments):
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments])
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
"""
LINE = "\n    "
# Calls on x86_64, with arguments that succeed outside of the sandbox or fail there for another reason than a lack of rights.
CALLS = {
    "ptrace the watching process": "raw(101, 16, 1, 0, 0)",
    "ptrace: be traced": "raw(101, 0, 0, 0, 0)",
    "read another process's memory": "raw(310, 1, EMPTY, 1, EMPTY, 1, 0)",
    "write another process's memory": "raw(311, 1, EMPTY, 1, EMPTY, 1, 0)",
    "take another process's file": "raw(438, raw(434, 1, 0), 0, 0)",
    "kill the watching process": "os.kill(1, 9)",
    "stop the watching process": "os.kill(1, 19)",
    "alarm the watching process": "os.kill(1, 14)",
    "kill the group": "os.kill(0, 9)",
    "kill everything": "os.kill(-1, 9)",
    "signal by pidfd": "raw(424, raw(434, 1, 0), 9, 0, 0)",
    "leave the process group": "os.setsid()",
    "limits of the watching process": "raw(302, 1, 0, struct.pack('QQ', 1, 1), 0)",
    "priority of the watching process": "os.setpriority(os.PRIO_PROCESS, 1, 19)",
    "processors of the watching process": "os.sched_setaffinity(1, {0})",
    "start a process": "os.fork()",
    "start a process: clone3": "raw(435, struct.pack('Q' * 11, 0, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0), 88)",
    "start a process: vfork": "raw(58)",
    "start a program": "os.execv('/usr/bin/true', ['true'])",
    "start a program by spawn": "os.posix_spawn('/usr/bin/true', ['true'], {})",
    "a user namespace": "raw(272, 0x10000000)",
    "a mount namespace": "raw(272, 0x20000)",
    "another's namespace": "raw(308, 0, 0)",
    "mount": "raw(165, b'none', b'/', b'tmpfs', 0, 0)",
    "unmount": "raw(166, b'/usr', 2)",
    "open a mount tree": "raw(428, -100, b'/', 1)",
    "change the root": "os.chroot('/usr')",
    "bpf": "raw(321, 0, ctypes.create_string_buffer(64), 64)",
    "perf events": "raw(298, ctypes.create_string_buffer(128), 0, -1, -1, 0)",
    "keys": "raw(250, 0, -3, 1)",
    "add a key": "raw(248, b'user', b'name', b'x', 1, -3)",
    "io_uring": "raw(425, 4, ctypes.create_string_buffer(120))",
    "userfaultfd": "raw(323, 1)",
    "memory files": "os.memfd_create('x')",
    "shared memory": "raw(29, 0, 4096, 0o1600)",
    "message queues": "raw(240, b'name', 0o102, 0o600, 0)",
    "personality": "raw(135, 0x0040000)",
    "inotify": "raw(254, 0)",
    "fanotify": "raw(300, 0, 0)",
    "file handles": "raw(303, -100, b'/usr', struct.pack('Ii', 128, 0) + bytes(128), ctypes.create_string_buffer(8), 0)",
    "kernel log": "raw(103, 10, 0, 0)",
    "the clock": "raw(227, 0, struct.pack('qq', 0, 0))",
    "the host's name": "socket.sethostname('x')",
    "a TCP socket": "socket.socket()",
    "a UDP socket": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "a Unix socket": "socket.socket(socket.AF_UNIX)",
    "a netlink socket": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "a virtual machine's socket": "socket.socket(40, socket.SOCK_STREAM)",
    "a pair of datagram sockets": "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
    "a thread in a new network": "raw(56, 0x40000000 | 0x10000 | 0x800 | 0x100, 0, 0, 0, 0)",
    "become root": "os.setuid(0)",
    "take capabilities": "raw(126, struct.pack('Ii', 0x20080522, 0), struct.pack('IIIIII', 0xFFFFFFFF, 0xFFFFFFFF, 0, 0, 0, 0))",
    "lift the filter": "libc.prctl(22, 0, 0, 0, 0) == 0 or raw(157, 22, 1, 0, 0, 0)",
    "dumpable": "raw(157, 4, 1, 0, 0, 0)",
    "outlive the suite": "raw(157, 1, 0, 0, 0, 0)",
    "type into a terminal": "raw(16, 1, 0x5412, b'x')",
    "attributes by ioctl": "raw(16, os.open('/usr', os.O_RDONLY), 0x40086602, struct.pack('l', 16))",
    "signals by a file's owner": "raw(72, 0, 8, 1)",
    "attributes by the new call": "raw(469, -100, b'/usr', ctypes.create_string_buffer(24), 24, 0)",
    "more memory": "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "more processor time": "import resource; resource.setrlimit(resource.RLIMIT_CPU, (-1, -1))",
}
# FILE is a file outside, FOLDER its folder, which belong to the suite's user; OWN a file among Python's, which can be read.
FILES = {
    "read": "open(FILE).read()",
    "write": "open(FILE, 'w')",
    "append": "open(FILE, 'a')",
    "create": "open(FOLDER + '/new', 'w')",
    "create here": "open('new', 'w')",
    "create at the root": "os.mkdir('/new')",
    "list": "os.listdir(FOLDER)",
    "list the root": "os.listdir('/')",
    "remove": "os.remove(FILE)",
    "rename": "os.rename(FILE, FILE + 'x')",
    "link": "os.link(FILE, FILE + 'x')",
    "link to": "os.symlink(FILE, FOLDER + '/link')",
    "truncate": "os.truncate(FILE, 0)",
    "chmod": "os.chmod(FILE, 0o777)",
    "chmod: fchmodat2": "raw(452, -100, FILE.encode(), 0o777, 0)",
    "chmod of an open file": "os.fchmod(1, 0o777)",
    "chmod of the input": "os.fchmod(0, 0o777)",
    "chown": "os.chown(FILE, 1, 1)",
    "utime": "os.utime(FILE, (0, 0))",
    "utime of an open file": "os.utime(0, (0, 0))",
    "extended attributes": "os.setxattr(FILE, 'user.x', b'x')",
    "extended attributes of an open file": "os.setxattr(1, 'user.x', b'x')",
    "chmod of Python": "os.chmod(OWN, 0o777)",
    "utime of Python": "os.utime(OWN, (0, 0))",
    "write to Python": "open(OWN, 'a')",
    "remove from Python": "os.remove(OWN)",
    "make a device": "os.mknod(FOLDER + '/device', 0o20666, os.makedev(1, 1))",
    "open its own output by /proc": "open('/proc/self/fd/1', 'w')",
    "the suite's memory": "open('/proc/' + str(SUITE) + '/mem', 'rb')",
    "the watching process's memory": "open('/proc/1/mem', 'rb')",
    "the suite's environment": "open('/proc/' + str(SUITE) + '/environ').read()",
    "the disk": "open('/dev/vda', 'rb')",
    "the terminal": "open('/dev/tty', 'w')",
    "passwords": "open('/etc/shadow').read()",
    "users": "open('/etc/passwd').read()",
}
SEEN = {
    "stat": "os.stat(FILE)",
    "lstat": "os.lstat(FILE)",
    "access": "os.access(FILE, os.F_OK) or 1 / 0",
    "statx": "raw(332, -100, FILE.encode(), 0, 0xFFF, ctypes.create_string_buffer(256))",
    "open as a path": "os.stat(os.open(FILE, os.O_PATH))",
    "home of root": "os.stat('/root/.bashrc')",
    "the way up": "os.stat('../' * 20 + FILE)",
    "the root of process 1": "os.stat('/proc/1/root' + FILE)",
}


def reached(actions: Mapping[str, str], names: str = "") -> list[str]:
    """The actions that succeed in a sandbox. All are tried in one program; if not all are refused, each in its own."""
    tries = {
        name: f"try:\n    {action.replace('; ', LINE)}\n    print({name!r})\nexcept Exception: pass\n" for name, action in actions.items()
    }
    run = functools.partial(run_tests, tests=stdin(("", "")), function=None, limits=LIMITS)
    if run(RAW + names + "".join(tries.values())).passed:
        return []
    return [name for name, attempt in tries.items() if not run(RAW + names + attempt).passed]


@strong
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers of system calls are x86_64's")
def test_no_system_call_reaches_outside() -> None:
    assert reached(CALLS) == []


@strong
def test_no_file_outside_is_read_written_or_changed(tmp_path: Path) -> None:
    file = tmp_path / "secret.txt"
    file.write_text("mine", encoding="utf-8")
    os.utime(file, (1e9, 1e9))
    mode = file.stat().st_mode
    names = f"SUITE, FILE, FOLDER, OWN = {os.getpid()}, {str(file)!r}, {str(tmp_path)!r}, {os.__file__!r}\n"
    assert reached(FILES, names) == []
    assert (file.read_text(encoding="utf-8"), file.stat().st_mtime, file.stat().st_mode) == ("mine", 1e9, mode)
    assert [path.name for path in tmp_path.iterdir()] == ["secret.txt"]


@with_tree
def test_no_file_outside_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "secret.txt"
    file.write_text("mine", encoding="utf-8")
    assert reached(SEEN, f"FILE = {str(file)!r}\n") == []


@strong
def test_an_attempt_that_succeeds_is_found() -> None:
    assert reached({"work": "1 + 1", "fail": "1 / 0", "end": "os._exit(1)", "read": "os.listdir('/usr')"}) == ["work", "end", "read"]


@strong
@pytest.mark.skipif(platform.machine() != "x86_64", reason="other machines have one set of numbers")
@pytest.mark.parametrize("instructions", ["b814000000cd80c3", "b8270000400f05c3"], ids=["of 32 bits", "of x32"])
def test_calls_by_another_set_of_numbers_end_the_program(instructions: str) -> None:
    """getpid, which is refused in no set, by `int 0x80` and with x32's bit."""
    code = f"import ctypes, mmap\nmemory = mmap.mmap(-1, 4096, prot=7)\nmemory.write(bytes.fromhex({instructions!r}))\n"
    code += "address = ctypes.addressof(ctypes.c_char.from_buffer(memory))\nprint('ok', flush=True)\n"
    assert run_tests(code, stdin(("", "ok")), None, LIMITS).passed
    assert run_tests(f"{code}ctypes.CFUNCTYPE(ctypes.c_int)(address)()", stdin(("", "ok")), None, LIMITS) == (
        False,
        "test 1: ended with an error",
    )
