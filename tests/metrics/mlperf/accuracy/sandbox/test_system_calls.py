"""The filter of system calls, for both machines, as the kernel would run it."""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from metrics.mlperf.accuracy.sandbox.system_calls import ALLOW, KILL, NUMBERS, REFUSE, Instruction, build_filter

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
PID = 2
HEADERS = {"x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), "aarch64": Path("/usr/include/asm-generic/unistd.h")}
FIT = {
    "clone": [0x3D0F00],
    "kill": [PID],
    "tgkill": [PID],
    "prctl": [15],
    "socketpair": [1, 1 | 0x80000],
    "ioctl": [1, 0x5401],
    "fcntl": [1, 3],
}
UNFIT = {
    "clone": [17],
    "kill": [1],
    "tgkill": [1],
    "prctl": [22],
    "socketpair": [1, 2],
    "ioctl": [1, 0x5412],
    "fcntl": [1, 8],
    "prlimit64": [1],
}


def decide(program: Sequence[Instruction], architecture: int, number: int, arguments: Sequence[int] = ()) -> int:
    """What the filter returns for a call: classic BPF over struct seccomp_data."""
    data = [number, architecture, 0, 0, *(half for a in [*arguments, 0, 0, 0, 0, 0, 0][:6] for half in (a & 0xFFFFFFFF, a >> 32))]
    value = place = 0
    while True:
        code, if_true, if_false, constant = program[place]
        place += 1
        if code == 0x20:
            value = data[constant // 4]
        elif code == 0x54:
            value &= constant
        elif code == 0x06:
            return constant
        else:
            assert code in (0x15, 0x35)
            place += if_true if (value == constant if code == 0x15 else value >= constant) else if_false


@pytest.mark.parametrize("machine", NUMBERS)
def test_listed_calls_pass_and_no_other(machine: str) -> None:
    program, architecture = build_filter(machine, PID), ARCHITECTURES[machine]
    assert all(0 <= if_true < 256 and 0 <= if_false < 256 for _, if_true, if_false, _ in program)
    listed = {number: name for name, number in NUMBERS[machine].items()}
    for number in range(424):
        wanted = ALLOW if number in listed else REFUSE | errno.EPERM
        assert decide(program, architecture, number, FIT.get(listed.get(number, ""), [])) == wanted, number
    for number in (424, 425, 435, 469, 1000):
        assert decide(program, architecture, number) == REFUSE | errno.ENOSYS
    for name, arguments in UNFIT.items():
        assert decide(program, architecture, NUMBERS[machine][name], arguments) == REFUSE | errno.EPERM, name
    assert (
        decide(program, architecture, NUMBERS[machine]["clone"], [0x10000 | 0x10000000]) == REFUSE | errno.EPERM
    )  # a thread as its own root
    for other in {*ARCHITECTURES.values(), 0x40000003} - {architecture}:
        assert decide(program, other, NUMBERS[machine]["read"]) == KILL
    assert decide(program, architecture, 0x40000000) == (KILL if machine == "x86_64" else REFUSE | errno.ENOSYS)


@pytest.mark.parametrize("machine", NUMBERS)
def test_numbers_are_the_kernel_s(machine: str) -> None:
    if not HEADERS[machine].exists():
        pytest.skip("the kernel's headers are not installed")
    text = HEADERS[machine].read_text(encoding="utf-8")
    theirs = {name: int(number) for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", text)}
    theirs.setdefault("newfstatat", theirs.get("fstatat", -1))  # the generic list's name
    assert NUMBERS[machine] == {name: theirs[name] for name in NUMBERS[machine]}
