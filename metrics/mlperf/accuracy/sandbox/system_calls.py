"""The system calls that a program may make: a filter (seccomp) that lets a list through and refuses the rest.

A list of what programs need, not of what is dangerous: the kernel gains system calls with every release. What Landlock leaves open is not
on it: permissions, owners, times and attributes of files, processes, sockets, other processes' memory, mounts, namespaces, keys, io_uring.
Source of the numbers: Linux, arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from collections.abc import Sequence
from typing import NamedTuple

# name, number on x86_64, number on aarch64
_LISTED = """
read 0 63, write 1 64, close 3 57, fstat 5 80, lseek 8 62, mmap 9 222, mprotect 10 226, munmap 11 215, mremap 25 216, madvise 28 233, brk
12 214, pread64 17 67, pwrite64 18 68, readv 19 65, writev 20 66, fsync 74 82, rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15
139, sigaltstack 131 132, restart_syscall 219 128, open 2 -, openat 257 56, access 21 -, faccessat 269 48, readlink 89 -, readlinkat 267
78, stat 4 -, lstat 6 -, newfstatat 262 79, statx 332 291, getdents64 217 61, getcwd 79 17, chdir 80 49, dup 32 23, dup2 33 -, dup3 292
24, pipe 22 -, pipe2 293 59, select 23 -, pselect6 270 72, poll 7 -, ppoll 271 73, epoll_create 213 -, epoll_create1 291 20, epoll_ctl 233
21, epoll_wait 232 -, epoll_pwait 281 22, eventfd2 290 19, futex 202 98, set_robust_list 273 99, set_tid_address 218 96, rseq 334 293,
membarrier 324 283, arch_prctl 158 -, sched_yield 24 124, sched_getaffinity 204 123, getcpu 309 168, exit 60 93, exit_group 231 94,
nanosleep 35 101, clock_nanosleep 230 115, clock_gettime 228 113, clock_getres 229 114, gettimeofday 96 169, time 201 -, times 100 153,
alarm 37 -, getitimer 36 102, setitimer 38 103, getrandom 318 278, uname 63 160, sysinfo 99 179, getrusage 98 165, getrlimit 97 163,
setrlimit 160 164, getpid 39 172, gettid 186 178, getppid 110 173, getuid 102 174, geteuid 107 175, getgid 104 176, getegid 108 177, ioctl
16 29, fcntl 72 25, clone 56 220, prctl 157 167, prlimit64 302 261, kill 62 129, tgkill 234 131, socketpair 53 199, sendto 44 206,
recvfrom 45 207
"""
NUMBERS = {
    machine: {words[0]: int(words[column]) for entry in _LISTED.split(",") if (words := entry.split())[column] != "-"}
    for column, machine in enumerate(("x86_64", "aarch64"), 1)
}

ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000  # SECCOMP_RET_ALLOW, _KILL_PROCESS, _ERRNO
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32 = 0x40000000  # the bit of x86_64's other set of numbers, which this list does not describe
# Calls from here on have one number on every machine and are younger than 2019. They "do not exist", so that the C library falls back to
# older ones: it starts threads by clone3, whose flags a filter cannot read, and then by clone.
_FIRST_NEW_CALL = 424
_NAMESPACES = 0x2000 | 0x20000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000  # CLONE_PTRACE, CLONE_NEW*
_THREAD = 0x10000  # CLONE_THREAD
_LOAD, _EQUAL, _AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06  # BPF: ld [k]; jeq k; jge k; and k; ret k
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, _PR_SET_NAME, _PR_GET_NAME = 22, 2, 15, 16

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, constant


class Argument(NamedTuple):
    """The call is let through where its argument at `place`, an int, masked, is one of the values."""

    place: int
    values: Sequence[int]
    mask: int = 0xFFFFFFFF


class _Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p)]


def restrict_system_calls() -> bool:
    """Restrict this process, for good, to the listed calls. Requires no_new_privs. False if kernel or machine has no such filter."""
    if platform.machine() not in NUMBERS:
        return False
    code = b"".join(_packed(instruction) for instruction in build_filter(platform.machine(), os.getpid()))
    memory = ctypes.create_string_buffer(code, len(code))
    program = _Filter(len(code) // 8, ctypes.cast(memory, ctypes.c_void_p))
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) == 0)


def build_filter(machine: str, pid: int) -> list[Instruction]:
    """The filter for this machine and process: refused calls fail with EPERM, new ones with ENOSYS; another machine's numbers kill."""
    conditions = _conditions(pid)
    program: list[Instruction] = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, _AUDIT_ARCH[machine]), (_RETURN, 0, 0, KILL), (_LOAD, 0, 0, 0)]
    if machine == "x86_64":
        program += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, KILL)]
    program += [(_AT_LEAST, 0, 1, _FIRST_NEW_CALL), (_RETURN, 0, 0, REFUSE | errno.ENOSYS)]
    for name, number in NUMBERS[machine].items():
        block: list[Instruction] = []
        for place, values, mask in conditions.get(name, ()):
            block += [(_LOAD, 0, 0, 16 + 8 * place), (_AND, 0, 0, mask)]  # the low half: both machines are little-endian
            block += [(_EQUAL, len(values) - n, 0, value) for n, value in enumerate(values)]
            block.append((_RETURN, 0, 0, REFUSE | errno.EPERM))
        block.append((_RETURN, 0, 0, ALLOW))
        program += [(_EQUAL, 0, len(block), number), *block]
    return [*program, (_RETURN, 0, 0, REFUSE | errno.EPERM)]


def _conditions(pid: int) -> dict[str, list[Argument]]:
    return {
        "clone": [Argument(0, [_THREAD], _THREAD | _NAMESPACES)],  # threads, and no process
        "kill": [Argument(0, [pid])],
        "tgkill": [Argument(0, [pid])],  # abort() and signal.raise_signal()
        "prlimit64": [Argument(0, [0])],  # its own limits, which can only fall: programs set the size of their stack
        "prctl": [Argument(0, [_PR_SET_NAME, _PR_GET_NAME])],  # names of threads
        # For asyncio. A stream's sendto takes no address, where a datagram could be sent to any socket with a path.
        "socketpair": [Argument(0, [1]), Argument(1, [1], 0xF)],
        # TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX: not those that change a file's attributes or a terminal's input
        "ioctl": [Argument(1, [0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451])],
        # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC: not F_SETOWN, which sends signals, and no leases
        "fcntl": [Argument(1, [0, 1, 2, 3, 4, 1030])],
    }


def _packed(instruction: Instruction) -> bytes:
    code, if_true, if_false, constant = instruction
    return code.to_bytes(2, "little") + bytes((if_true, if_false)) + constant.to_bytes(4, "little")
