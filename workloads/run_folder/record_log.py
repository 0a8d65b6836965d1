"""records.jsonl during a test, and the queries that have no Record.

A second file, issued-<mode>.u32, lists the issued queries during the test, so that any process that survives the test can tell which have
no answer. A third, .reserve, holds free space: on a full disk it is truncated, so that the run can still report the error.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import random
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from configs.errors import RunError
from workloads.records import Record, query_seed

RESERVE_BYTES, LAST_BYTES = 8 * 2**20, 2 * 2**20  # LAST_BYTES are for outcome.json and the report
WHOLE_BYTES, LINE_BYTES, MAX_DRAWS = 4 * 2**20, 2**16, 20_000  # records.jsonl is read whole up to WHOLE_BYTES, else line by line
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Issued(NamedTuple):
    """An issued query."""

    query_id: int
    sample_index: int


class RecordLog:
    """Writes one test's Records, always in whole lines. first_id: the number of the test's first query.

    Raises RunError where another process writes records into the folder.
    """

    def __init__(self, folder: Path, mode: str, first_id: int = 0) -> None:
        self._records = os.open(folder / "records.jsonl", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(self._records, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._records)
            raise RunError(f"{folder / 'records.jsonl'} is being written by another run; end one of them") from None
        except OSError:
            pass  # some file systems have no locks
        self._folder, self._end = folder, cut_half_line(folder)
        self._issued_path, self._reserve_path = folder / f"issued-{mode}.u32", folder / ".reserve"
        self._issued = self._issued_path.open("wb", buffering=0)
        self.issued([first_id])
        with contextlib.suppress(OSError), self._reserve_path.open("wb") as reserve:
            os.posix_fallocate(reserve.fileno(), 0, RESERVE_BYTES)

    def issued(self, sample_indices: Iterable[int]) -> None:
        """Record the samples of the next queries."""
        with contextlib.suppress(OSError):  # only the count of unanswered queries is lost, of a run that is lost anyway
            self._issued.write(array.array("I", sample_indices).tobytes())

    def write(self, lines: bytes) -> None:
        """Append whole lines. Raises OSError on a full disk, even if truncating the reserve made room for them."""
        began = self._end
        try:
            self._append(lines)
        except OSError as error:
            self._give_up_reserve(LAST_BYTES)
            if error.errno in DISK_FULL:
                self._append(lines[self._end - began :])
            raise

    def fail_unwritten(self, mode: str, causes: Mapping[str, str], gone: Collection[int]) -> int:
        """Make that test's Records failed ones whose files are not on disk; returns how many.

        causes: why a file could not be written, by its path in the run folder. gone: ranks that ended without saying so, whose files are
        looked for. Raises OSError where the Records cannot be written.
        """
        lines = os.pread(self._records, self._end, 0).splitlines(keepends=True)
        num_failed = 0
        for number, line in enumerate(lines):
            record = msgspec.json.decode(line, type=Record)
            if record.mode != mode or record.status == "failed" or record.media is None:
                continue
            cause = causes.get(record.media)
            if cause is None and record.rank in gone and not (self._folder / record.media).is_file():
                cause = f"{record.media} was not written before rank {record.rank} ended"
            if cause is not None:
                lines[number] = msgspec.json.encode(failed(record, cause)) + b"\n"
                num_failed += 1
        if num_failed:
            self._replace(b"".join(lines))
        return num_failed

    def draw(self, mode: str, rng: random.Random) -> Iterator[Record]:
        """That test's Records in random order; of a long file at most MAX_DRAWS, and those after long lines slightly more often."""
        if self._end <= WHOLE_BYTES:
            lines = os.pread(self._records, self._end, 0).splitlines()
            rng.shuffle(lines)
            drawn: Iterable[bytes] = lines
        else:
            drawn = self._lines_at_random(rng)
        for line in drawn:
            record = msgspec.json.decode(line, type=Record)
            if record.mode == mode:
                yield record

    def _lines_at_random(self, rng: random.Random) -> Iterator[bytes]:
        seen: set[int] = set()
        for _ in range(MAX_DRAWS):
            place = rng.randrange(self._end)
            chunk = os.pread(self._records, LINE_BYTES, place)
            begin = chunk.find(b"\n") + 1
            end = chunk.find(b"\n", begin)
            if begin > 0 and end > 0 and place + begin not in seen:
                seen.add(place + begin)
                yield chunk[begin:end]

    def close(self) -> None:
        """Call when every query has its Record."""
        os.close(self._records)
        self._issued.close()
        self._issued_path.unlink(missing_ok=True)
        self._reserve_path.unlink(missing_ok=True)

    def _replace(self, content: bytes) -> None:
        """Replace all lines, by a new file under the same lock; in place where the folder takes no new file."""
        path = self._folder / "records.jsonl"
        partial = path.with_name(path.name + ".partial")
        try:
            partial.write_bytes(content)
            new = os.open(partial, os.O_RDWR)
            with contextlib.suppress(OSError):
                fcntl.flock(new, fcntl.LOCK_EX | fcntl.LOCK_NB)
            partial.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                partial.unlink()
            os.posix_fallocate(self._records, 0, len(content))  # on a full disk nothing is overwritten
            os.pwrite(self._records, content, 0)
            os.ftruncate(self._records, len(content))
        else:
            os.close(self._records)
            self._records = new
        self._end = len(content)

    def _append(self, lines: bytes) -> None:
        done = 0
        try:
            while done < len(lines):
                done += os.pwrite(self._records, memoryview(lines)[done:], self._end + done)
        finally:
            whole = len(lines) if done == len(lines) else lines.rfind(b"\n", 0, done) + 1
            if whole < done:
                os.ftruncate(self._records, self._end + whole)
            self._end += whole

    def _give_up_reserve(self, left: int) -> None:
        with contextlib.suppress(OSError):
            os.truncate(self._reserve_path, left)


def failed(record: Record, cause: str) -> Record:
    """The record of the same query without an answer."""
    r = record
    times = {"issued_s": r.issued_s, "completed_s": r.completed_s, "started_s": r.started_s}
    place = {"batch_size": r.batch_size, "group": r.group, "error": cause}
    return Record(r.query_id, r.sample_index, r.seed, r.mode, "failed", r.rank, **times, **place)  # type: ignore[arg-type]


def cut_half_line(folder: Path) -> int:
    """Cut off an incomplete last line; returns where records.jsonl ends."""
    with (folder / "records.jsonl").open("rb+") as file:
        content = file.read()
        end = content.rfind(b"\n") + 1
        if end < len(content):
            file.truncate(end)
    return end


def without_record(folder: Path, mode: str, records: Iterable[Record]) -> list[Issued]:
    """Issued queries without a Record, of a test whose conductor died. Empty if the test ended normally."""
    path = folder / f"issued-{mode}.u32"
    if not path.exists():
        return []
    numbers = array.array("I")
    content = path.read_bytes()
    numbers.frombytes(content[: len(content) // numbers.itemsize * numbers.itemsize])
    if not numbers:
        return []
    known = {r.query_id for r in records if r.mode == mode}
    return [Issued(i, index) for i, index in enumerate(numbers[1:], numbers[0]) if i not in known]


def fail_the_rest(folder: Path, mode: str, records: Sequence[Record], run_seed: int, error: str) -> int:
    """Write a failed Record for every query without one, from the test's start to its last answer; returns how many."""
    left = without_record(folder, mode, records)
    end = max((r.completed_s for r in records if r.mode == mode), default=0.0)
    failed = [Record(i, index, query_seed(run_seed, index), mode, "failed", -1, 0.0, end, error=error) for i, index in left]
    cut_half_line(folder)
    with (folder / "records.jsonl").open("ab") as file:
        file.write(msgspec.json.Encoder().encode_lines(failed))
    for name in (f"issued-{mode}.u32", ".reserve"):
        (folder / name).unlink(missing_ok=True)
    return len(failed)
