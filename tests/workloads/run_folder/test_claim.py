"""One run, one folder."""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import msgspec
import pytest

from configs.errors import ConfigError
from tests.conftest import ROOT
from workloads.run_folder import claim as claims
from workloads.run_folder.claim import FILE, SUCCESSOR, Holder, check_unclaimed, claim
from workloads.run_folder.files import create_run_folder

HERE = socket.gethostname()


def name(folder: Path, pid: int, host: str = HERE, started: str = "") -> None:
    (folder / FILE).write_bytes(msgspec.json.encode(Holder(pid, host, started)))


@pytest.fixture
def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Lustre, which is often mounted without them."""

    def refuse(*_: Any) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("workloads.run_folder.claim.fcntl.flock", refuse)


def ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def _rush(folder: Path, together: Barrier, wins: Any) -> None:
    together.wait()
    try:
        claim(folder)
    except ConfigError:
        together.wait()
        os._exit(0)
    with wins.get_lock():
        wins.value += 1
    together.wait()
    os._exit(0)  # as if it were killed: the claim stays


@pytest.mark.parametrize("left", [False, True])
def test_of_many_processes_one_gets_the_folder_also_where_one_was_killed_there(tmp_path: Path, left: bool) -> None:
    fork = multiprocessing.get_context("fork")
    folder = tmp_path / "run"
    if left:
        folder.mkdir()
        name(folder, ended_process())
    together, wins = fork.Barrier(8), fork.Value("i", 0)
    rushing = [fork.Process(target=_rush, args=(folder, together, wins)) for _ in range(8)]
    for process in rushing:
        process.start()
    for process in rushing:
        process.join(60)
    assert wins.value == 1


def test_the_second_run_is_refused_with_the_first_ones_process_and_host(tmp_path: Path) -> None:
    first = create_run_folder(str(tmp_path / "run"), "t2v")
    message = rf"'.*run' is still being written by process {os.getpid()} on {HERE}; wait until it ends, end it, or give another folder"
    with pytest.raises(ConfigError, match=message):
        create_run_folder(str(tmp_path / "run"), "t2v")
    with pytest.raises(ConfigError, match=message):
        check_unclaimed(tmp_path / "run")
    first.release()
    check_unclaimed(tmp_path / "run")
    create_run_folder(str(tmp_path / "run"), "t2v").release()


def test_a_run_of_another_process_is_named_and_left_as_it_is(tmp_path: Path) -> None:
    code = "import sys, time; from workloads.run_folder.claim import claim; c = claim(__import__('pathlib').Path('run')); print(flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", code + "; sys.stdin.read()"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout
        other.stdout.readline()
        with pytest.raises(ConfigError, match=rf"is still being written by process {other.pid} on {HERE}"):
            create_run_folder(str(tmp_path / "run"), "t2v")
        assert [p.name for p in (tmp_path / "run").iterdir()] == [FILE]
        other.communicate()
    assert not (tmp_path / "run").exists()  # it was released, and was empty


@pytest.mark.usefixtures("without_locks")
def test_without_locks_a_living_process_keeps_the_folder_and_an_ended_one_loses_it(tmp_path: Path) -> None:
    name(tmp_path, os.getppid())
    with pytest.raises(ConfigError, match=f"is still being written by process {os.getppid()} on {HERE}"):
        claim(tmp_path)
    name(tmp_path, ended_process())
    taken = claim(tmp_path)
    assert msgspec.json.decode((tmp_path / FILE).read_bytes(), type=Holder).pid == os.getpid()
    taken.release()
    name(tmp_path, os.getppid(), started="1")  # its number belongs to another process now
    claim(tmp_path).release()
    assert list(tmp_path.iterdir()) == []


def test_a_process_of_another_host_is_named_with_the_file_to_remove(tmp_path: Path) -> None:
    name(tmp_path, 77, "node7")
    with pytest.raises(ConfigError, match=rf"was claimed by process 77 on node7, about which {HERE} cannot tell .* remove .*/\.claim"):
        claim(tmp_path)
    (tmp_path / FILE).unlink()
    claim(tmp_path).release()


def test_a_process_killed_before_it_wrote_its_name_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "WRITTEN_S", 0.05)
    (tmp_path / FILE).touch()
    claim(tmp_path).release()


def test_one_that_was_killed_while_it_took_over_is_named(tmp_path: Path) -> None:
    pid = ended_process()
    name(tmp_path, pid)
    (tmp_path / FILE).rename(tmp_path / SUCCESSOR)
    name(tmp_path, pid)
    with pytest.raises(ConfigError, match=rf"process {pid} on {HERE} was killed while it claimed the folder; remove .*\.claim\.new"):
        claim(tmp_path)


def test_a_forked_child_does_not_release_its_parents_claim(tmp_path: Path) -> None:
    held = claim(tmp_path)
    if (child := os.fork()) == 0:
        held.release()
        os._exit(0)
    os.waitpid(child, 0)
    assert (tmp_path / FILE).exists()
    held.release()


def test_runs_that_start_in_the_same_second_get_a_folder_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("workloads.run_folder.files.time.strftime", lambda _: "20260101-000000")
    folders = [create_run_folder(None, "t2v").folder.name for _ in range(3)]
    assert folders == ["t2v-20260101-000000", "t2v-20260101-000000-2", "t2v-20260101-000000-3"]


@pytest.mark.parametrize("file", ["config.yaml", "manifest.json", "search.json", "probes/01/config.yaml"])
def test_a_folder_with_a_run_of_any_kind_is_not_overwritten(tmp_path: Path, file: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).touch()
    with pytest.raises(ConfigError, match="already holds a run"):
        create_run_folder(str(tmp_path), "t2v")
    assert not (tmp_path / FILE).exists()
