"""Landlock: what a program may do with files by their contents, with TCP, and with processes outside its sandbox."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # system calls, the same on every architecture
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}  # by the first version of Landlock that has them
_libc = ctypes.CDLL(None, use_errno=True)


class _Ruleset(ctypes.Structure):
    _fields_ = [("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64)]


class _PathRule(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32)]


def restrict_files(readable: Sequence[str]) -> list[str]:
    """Restrict this process, for good, to reading these folders and using /dev/null. Requires no_new_privs. Returns the layers in force."""
    version = _libc.syscall(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    if version < 1:
        return []
    rights = _FILE_RIGHTS[max(v for v in _FILE_RIGHTS if v <= version)]
    rules = _Ruleset(rights, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 8 * (1 + (version >= 4) + (version >= 6))
    ruleset = _libc.syscall(_CREATE, ctypes.byref(rules), ctypes.c_size_t(size), ctypes.c_uint32(0))
    if ruleset < 0:
        return []
    for path in (*readable, "/dev/null"):
        try:
            opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        of_folders = _EXECUTE | _READ_FILE | _READ_DIR  # a rule for a file that has rights of folders is refused
        allowed = _READ_FILE | _WRITE_FILE if path == "/dev/null" else of_folders if Path(path).is_dir() else _READ_FILE
        rule = _PathRule(allowed & rights, opened)
        _libc.syscall(_ADD, ruleset, ctypes.c_int(1), ctypes.byref(rule), ctypes.c_uint32(0))
        os.close(opened)
    refused = _libc.syscall(_RESTRICT, ruleset, ctypes.c_uint32(0)) != 0
    os.close(ruleset)
    if refused:
        return []
    return ["files", "tcp"] if version >= 4 else ["files"]
