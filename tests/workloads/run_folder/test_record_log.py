from __future__ import annotations

import errno
import fcntl
import os
import random
from pathlib import Path

import msgspec
import pytest

from tests.conftest import record
from workloads.records import Record, query_seed
from workloads.run_folder.record_log import LAST_BYTES, RESERVE_BYTES, RecordLog, fail_the_rest, without_record


def read(folder: Path) -> list[Record]:
    return [msgspec.json.decode(line, type=Record) for line in (folder / "records.jsonl").read_bytes().splitlines()]


def lines(*ids: int) -> bytes:
    return b"".join(msgspec.json.encode(record(i)) + b"\n" for i in ids)


def test_an_incomplete_line_is_cut_off_before_the_next_is_written(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_bytes(lines(0, 1)[:-7])
    log = RecordLog(tmp_path, "accuracy")
    log.write(lines(2))
    assert [r.query_id for r in read(tmp_path)] == [0, 2]


def test_issued_queries_without_a_record_are_known_without_the_conductor(tmp_path: Path) -> None:
    log = RecordLog(tmp_path, "performance", first_id=10)
    log.issued([4, 2])
    log.issued([0])
    log.write(lines(11))
    assert without_record(tmp_path, "performance", read(tmp_path)) == [(10, 4), (12, 0)]
    assert without_record(tmp_path, "accuracy", []) == []


def test_queries_without_a_record_get_failed_ones_and_the_files_are_removed(tmp_path: Path) -> None:
    log = RecordLog(tmp_path, "performance")
    log.issued([5, 6])
    log.write(lines(0))
    assert fail_the_rest(tmp_path, "performance", read(tmp_path), 42, "the conductor died") == 1
    done, failed = read(tmp_path)
    assert (done.status, failed.status, failed.error) == ("done", "failed", "the conductor died")
    assert (failed.query_id, failed.sample_index, failed.seed) == (1, 6, query_seed(42, 6))
    assert failed.completed_s == done.completed_s
    assert [p.name for p in tmp_path.iterdir()] == ["records.jsonl"]


def test_a_normal_end_removes_the_files(tmp_path: Path) -> None:
    log = RecordLog(tmp_path, "performance")
    assert (tmp_path / ".reserve").stat().st_size == RESERVE_BYTES
    log.issued([0])
    log.write(lines(0))
    log.close()
    assert [p.name for p in tmp_path.iterdir()] == ["records.jsonl"]


def test_the_records_are_locked_until_the_test_has_ended(tmp_path: Path) -> None:
    log = RecordLog(tmp_path, "performance")
    with (tmp_path / "records.jsonl").open("rb") as other:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        log.close()
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_records_of_one_test_are_drawn_once_each_in_random_order(tmp_path: Path) -> None:
    log = RecordLog(tmp_path, "accuracy")
    log.write(lines(*range(30)) + msgspec.json.encode(record(30, mode="accuracy")) + b"\n")
    drawn = [r.query_id for r in log.draw("performance", random.Random(0))]
    assert sorted(drawn) == list(range(30))
    assert drawn != sorted(drawn)
    assert [r.query_id for r in log.draw("accuracy", random.Random(0))] == [30]


def test_records_of_a_long_file_are_drawn_line_by_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first line follows no other, and is never met."""
    monkeypatch.setattr("workloads.run_folder.record_log.WHOLE_BYTES", 1000)
    log = RecordLog(tmp_path, "accuracy")
    log.write(lines(*range(30)))
    drawn = list(log.draw("performance", random.Random(0)))
    assert sorted(r.query_id for r in drawn) == list(range(1, 30))
    assert sorted(drawn, key=lambda r: r.query_id) == read(tmp_path)[1:]


def test_a_full_disk_uses_the_reserve_and_loses_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = RecordLog(tmp_path, "performance")
    write, rest = os.pwrite, [len(lines(0)) + 40]  # bytes that still fit

    def full(file: int, content: memoryview, offset: int) -> int:
        if not rest:
            return write(file, content, offset)
        if rest[0] == 0:
            rest.clear()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done = write(file, content[: rest[0]], offset)
        rest[0] -= done
        return done

    monkeypatch.setattr("os.pwrite", full)
    with pytest.raises(OSError, match="No space left on device"):
        log.write(lines(0, 1, 2))
    assert [r.query_id for r in read(tmp_path)] == [0, 1, 2]
    assert (tmp_path / ".reserve").stat().st_size == LAST_BYTES


@pytest.mark.parametrize("takes_files", [True, False])
def test_records_whose_files_are_not_on_disk_become_failed_ones_under_the_same_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, takes_files: bool
) -> None:
    """Query 1 could not be written; rank 3 was killed: of its files one is there, and one is not. In a folder that takes no file too."""
    if not takes_files:
        monkeypatch.setattr("pathlib.Path.write_bytes", _read_only)
    answers = [record(i, media=f"media/{i}.mkv", digest="ab" * 8, num_units=9, started_s=0.5, rank=3 if i > 2 else 0) for i in range(5)]
    (tmp_path / "media").mkdir()
    (tmp_path / "media/3.mkv").touch()
    log = RecordLog(tmp_path, "performance")
    other_test = record(1, mode="accuracy", media="media/1.mkv")
    log.write(msgspec.json.Encoder().encode_lines([*answers, other_test]))
    assert log.fail_unwritten("performance", {"media/1.mkv": "media/1.mkv could not be written: Read-only file system"}, {3}) == 2
    log.write(lines(5))
    zero, one, two, three, four, other, five = read(tmp_path)
    assert (zero, two, three, other, five) == (answers[0], answers[2], answers[3], other_test, record(5))
    assert one == record(1, status="failed", started_s=0.5, error="media/1.mkv could not be written: Read-only file system")
    assert four.error == "media/4.mkv was not written before rank 3 ended"
    assert log.fail_unwritten("performance", {}, {3}) == 0
    with (tmp_path / "records.jsonl").open("rb") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _read_only(self: Path, content: bytes) -> int:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))
