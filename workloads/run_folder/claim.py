"""The claim on a run folder: one process at a time may write a run there.

.claim is created by the first process alone, before anything else is written, and names the process and its host. It is removed when the
process ends; one that is left by a process that was killed is taken over. The file is locked as well, where the file system has locks, so
that the claim also holds against processes of other containers and hosts, and as long as a conductor outlives its rank 0.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import fcntl
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from configs.errors import ConfigError

FILE, SUCCESSOR = ".claim", ".claim.new"
ATTEMPTS = 10
WRITTEN_S = 1.0  # how long another process may take to write its name into the file that it created


class Holder(msgspec.Struct, frozen=True):
    """The process that claimed the folder. started: when, in the kernel's clock ticks, because process numbers are used again."""

    pid: int
    host: str
    started: str = ""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@dataclass
class Claim:
    """A folder that this process alone may write a run into. lock: the open file, to be inherited by children that write too."""

    folder: Path
    lock: int
    holder: Holder
    is_new: bool = False  # the folder was created for this claim

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Remove the claim, and its folder where that is new and still empty. A forked child's exit releases nothing."""
        if self.holder.pid != os.getpid() or self.lock < 0:
            return
        with contextlib.suppress(OSError):
            (self.folder / FILE).unlink()
        os.close(self.lock)
        self.lock = -1
        if self.is_new:
            with contextlib.suppress(OSError):
                if (self.folder / "media").is_dir():
                    (self.folder / "media").rmdir()
                self.folder.rmdir()


def claim(folder: Path) -> Claim:
    """Create and claim the folder until this process ends. Raises ConfigError where another run has it, or it is not writable."""
    is_new = not folder.exists()
    own = Holder(os.getpid(), socket.gethostname(), _started(os.getpid()))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        claimed = Claim(folder, _claim(folder, own), own, is_new)
    except OSError as error:
        raise unwritable(folder, error) from None
    atexit.register(claimed.release)
    return claimed


def unwritable(folder: Path, error: OSError) -> ConfigError:
    """Says why nothing can be written into the folder."""
    if error.errno == errno.ENOSPC:
        return ConfigError(f"output folder {str(folder)!r} is on a full disk; free some space or give --output another")
    return ConfigError(f"output folder {str(folder)!r} is not writable ({error.strerror}); give --output a writable one")


def check_unclaimed(folder: Path) -> None:
    """Raises ConfigError where a process that still runs has claimed the folder."""
    path = folder / FILE
    if path.exists() and (holder := _read(path)) is not None:
        _refuse_if_held(folder, path, holder)


def _claim(folder: Path, own: Holder) -> int:
    path = folder / FILE
    for _ in range(ATTEMPTS):
        with contextlib.suppress(FileExistsError):
            return _create(path, own)
        holder = _read(path)
        if holder is None:
            continue  # it was released in between
        _refuse_if_held(folder, path, holder)
        if (lock := _take_over(folder, holder, own)) is not None:
            return lock
    raise ConfigError(f"folder {str(folder)!r} is claimed by one run after another; give another folder")


def _create(path: Path, own: Holder) -> int:
    """Raises FileExistsError where another process was first."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.write(lock, msgspec.json.encode(own))
    return lock


def _read(path: Path) -> Holder | None:
    """Who is named in the file; None where it is gone. A process that was killed before it wrote its name has number 0."""
    give_up = time.monotonic() + WRITTEN_S
    while True:
        try:
            return msgspec.json.decode(path.read_bytes(), type=Holder)
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError):
            if time.monotonic() > give_up:
                return Holder(0, socket.gethostname())
            time.sleep(0.02)


def _refuse_if_held(folder: Path, path: Path, holder: Holder) -> None:
    locked = _is_locked(path)
    if locked or (locked is None and holder.host == socket.gethostname() and _runs(holder)):
        raise ConfigError(f"run {str(folder)!r} is still being written by {holder}; wait until it ends, end it, or give another folder")
    if holder.host != socket.gethostname():
        raise ConfigError(
            f"run {str(folder)!r} was claimed by {holder}, about which {socket.gethostname()} cannot tell whether it still runs; "
            f"give another folder or, if that process has ended, remove {path}"
        )


def _is_locked(path: Path) -> bool | None:
    """Whether a living process holds the file's lock; None where the file system has no locks, or the file cannot be opened."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    return False


def _runs(holder: Holder) -> bool:
    """Whether the process runs on this host."""
    if holder.pid <= 0:
        return False
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    started = _started(holder.pid)
    return not started or not holder.started or started == holder.started


def _started(pid: int) -> str:
    """When the process was started; `` where /proc does not say, `ended` where it only waits for its parent."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "ended" if fields[0] in "ZX" else fields[19]


def _take_over(folder: Path, holder: Holder, own: Holder) -> int | None:
    """Replace the claim of a process that has ended; None where another process did so first."""
    path, successor = folder / FILE, folder / SUCCESSOR
    try:
        lock = _create(successor, own)  # at most one process gets further
    except FileExistsError:
        if (other := _read(successor)) is not None:
            _refuse_if_held(folder, successor, other)
            raise ConfigError(f"run {str(folder)!r}: {other} was killed while it claimed the folder; remove {successor}") from None
        return None
    if _read(path) == holder:
        successor.replace(path)
        return lock
    successor.unlink()
    os.close(lock)
    return None
