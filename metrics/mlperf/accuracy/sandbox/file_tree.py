"""A file tree of its own for a program: Python's folders, read-only, at their places, and nothing else.

Landlock guards the contents of files. Here other files have no name, so that they cannot be looked up, and permissions, owners and times
cannot be changed. A folder inside a closed one, as /root, can be read by every user, so that the program can run as one who owns nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

_MOUNT_SETATTR = 442  # the system call, on every machine; Linux 5.12
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
_MNT_DETACH = 2
_AT_RECURSIVE, _AT_FDCWD = 0x8000, -100
_READ_ONLY, _NO_SUID, _NO_DEVICES = 1, 2, 4
_libc = ctypes.CDLL(None, use_errno=True)


class _Attributes(ctypes.Structure):
    _fields_ = [("set", ctypes.c_uint64), ("clear", ctypes.c_uint64), ("propagation", ctypes.c_uint64), ("userns", ctypes.c_uint64)]


def enter_file_tree(readable: Sequence[str], folder: Path) -> bool:
    """Build the tree on top of `folder` and make it this process's root. Requires a mount namespace of its own. False if it is refused."""
    try:
        _mount("none", Path("/"), None, _MS_REC | _MS_PRIVATE)  # nothing of this reaches the rest of the machine
        _mount("tmpfs", folder, "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,mode=755")
        for path in _outermost({_place(Path(path), folder) for path in readable}):
            _bind(path, folder)
            _set_read_only(_inside(folder, path), _AT_RECURSIVE)
        _bind(Path("/dev/null"), folder)
        os.chdir(folder)
        _checked(_libc.syscall(_PIVOT_ROOT[os.uname().machine], b".", b"."), "pivot_root")  # the old root lies on top of the new one ...
        _checked(_libc.umount2(b".", _MNT_DETACH), "umount")  # ... and is taken away
        os.chdir("/")
        _set_read_only(Path("/"), 0)
    except (OSError, KeyError):
        return False
    return True


def _place(path: Path, folder: Path) -> Path:
    """Repeat in the tree the symbolic links on the way to `path`, and return where it really lies."""
    done, waiting = Path("/"), list(path.parts[1:])
    while waiting:
        name = waiting.pop(0)
        here = done.parent if name == ".." else done / name
        if not here.is_symlink():
            done = here
            continue
        target, link = here.readlink(), _inside(folder, here)
        link.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            link.symlink_to(target)
        waiting = [*target.parts[target.is_absolute() :], *waiting]
        done = Path("/") if target.is_absolute() else done
    return done


def _outermost(paths: set[Path]) -> list[Path]:
    return sorted(path for path in paths if not paths & set(path.parents))


def _bind(path: Path, folder: Path) -> None:
    target = _inside(folder, path)
    (target if path.is_dir() else target.parent).mkdir(parents=True, exist_ok=True)
    if not path.is_dir():
        target.touch()
    _mount(str(path), target, None, _MS_BIND | _MS_REC)


def _inside(folder: Path, path: Path) -> Path:
    return folder / path.relative_to("/")


def _mount(source: str, target: Path, kind: str | None, flags: int, options: str = "") -> None:
    arguments = os.fsencode(source), os.fsencode(target), kind and kind.encode(), ctypes.c_ulong(flags), options.encode()
    _checked(_libc.mount(*arguments), f"mount {target}")


def _set_read_only(target: Path, flags: int) -> None:
    wanted = _Attributes(_READ_ONLY | _NO_SUID | _NO_DEVICES, 0, 0, 0)
    arguments = ctypes.c_int(_AT_FDCWD), os.fsencode(target), ctypes.c_uint(flags), ctypes.byref(wanted)
    _checked(_libc.syscall(_MOUNT_SETATTR, *arguments, ctypes.c_size_t(ctypes.sizeof(wanted))), f"mount_setattr {target}")


def _checked(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
