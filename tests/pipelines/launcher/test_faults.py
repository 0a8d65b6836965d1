"""What goes wrong in a run, and what it leaves: every fault is made to happen to a run as users start it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import ROOT, TWO_RANKS, suite_env
from tests.forked_ranks import ForkedRank, start_ranks

FRAIL = '''
import ctypes, os, time
from dataclasses import dataclass
from configs.registry import register
from pipelines.toy.t2v import ToyT2V

@register("frail")
@dataclass
class Frail(ToyT2V):
    """What goes wrong with query `at` and those after it, on the last rank."""
    way: str = "none"
    at: int = 4

    def generate(self, samples, queries):
        import torch
        if self.way == "file":  # in the place of the file that is being written
            os.makedirs(f"run/media/performance-{self.at:06d}.partial", exist_ok=True)
        if queries[0].id >= self.at and os.environ.get("RANK", "0") == os.environ.get("LAST", "0"):
            if self.way == "hang":
                time.sleep(1000)
            if self.way == "stuck":  # in C, where no signal interrupts it
                libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
                libc.pthread_mutex_lock(mutex)
                libc.pthread_mutex_lock(mutex)
            if self.way == "memory" and queries[0].id == self.at:
                raise torch.OutOfMemoryError("HIP out of memory. Tried to allocate 96.00 GiB.")
        return super().generate(samples, queries)
'''

HERE = os.uname().nodename


@dataclass
class Launch:
    """A run that goes on. ranks: its processes by rank. launcher: theirs, where they were not forked."""

    folder: Path
    ranks: dict[int, psutil.Process]
    conductor: psutil.Process
    launcher: subprocess.Popen[str] | None
    forked: Sequence[ForkedRank]
    struck: float = 0.0
    errors: str = ""

    def strike(self, fault: Callable[[], object]) -> None:
        fault()
        self.struck = time.monotonic()

    def end(self, without: int | None = None) -> None:
        """Wait until the launcher and all ranks but one have ended: non-zero, and within 30 s of the fault."""
        if self.launcher:
            _, self.errors = self.launcher.communicate(timeout=40)
            assert self.launcher.returncode != 0
        for rank, process in self.ranks.items():
            if rank != without and process.is_running():
                process.wait(40)
        for rank, one in enumerate(self.forked):
            if rank != without:
                one.process.join(5)
                assert one.process.exitcode != 0
        assert time.monotonic() - self.struck < 30, self.errors
        self.read_errors()

    def read_errors(self) -> None:
        self.errors += "".join(one.outputs[1].read_text(encoding="utf-8") for one in self.forked)

    def read(self, name: str) -> Any:
        return json.loads((self.folder / "run" / name).read_text(encoding="utf-8"))

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "run/records.jsonl").read_text(encoding="utf-8").splitlines()]

    def check(self, *words: str, mode: str = "performance") -> None:
        """The words are in the outcome and the report; every query that was issued has a Record."""
        outcome, report = self.read("outcome.json")[mode], self.read("report.json")
        assert report["verdict"] == "INVALID"
        for word in words:
            assert word in outcome["aborted"], self.errors[-3000:]
            assert any(word in reason for reason in report["reasons"])
        states = [r["status"] for r in self.records]
        assert len({r["query_id"] for r in self.records}) == len(states) == outcome["num_issued"]
        assert (states.count("done"), states.count("failed")) == (outcome["num_done"], outcome["num_failed"])
        assert min(outcome["num_done"], outcome["num_failed"]) > 0
        assert not list((self.folder / "run").glob("issued-*")) + list((self.folder / "run").glob(".reserve"))


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Launch]]:
    """Start a run of slow toy videos and wait until some are there; `changes` are for --set."""
    started: list[Launch] = []

    def start(
        *changes: str, ranks: int = 1, way: str = "none", scenario: str = "offline", folder: Path = tmp_path, launcher: Sequence[str] = ()
    ) -> Launch:
        (tmp_path / "frail.py").write_text(FRAIL, encoding="utf-8")
        pipeline = f"pipeline={{name: frail, way: {way}, seconds: 0.1}}"
        words = [
            w
            for change in (pipeline, "load.min_query_count=300", "metrics=[throughput]", "report_videos=0", *changes)
            for w in ("--set", change)
        ]
        arguments = ["--config", "t2v/toy", "--plugin", str(tmp_path / "frail.py"), "--scenario", scenario, "--output", "run", *words]
        env = suite_env() | {"LAST": str(ranks - 1), "OMP_NUM_THREADS": "1"}
        forked: Sequence[ForkedRank] = ()
        process = None
        if launcher:
            command = [*launcher, str(ROOT / "suite.py"), *arguments]
            process = subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        else:
            forked = start_ranks(folder, arguments, ranks, env)
        records = folder / "run/records.jsonl"
        for _ in range(1800):
            if (process and process.poll() is not None) or any(one.process.exitcode is not None for one in forked):
                break
            if records.exists() and records.read_bytes().count(b"\n") >= 3:
                break
            time.sleep(0.1)
        if process:
            assert process.poll() is None, process.communicate()[1][-3000:]
            family = psutil.Process(process.pid).children(recursive=True)
            found = {int(p.environ()["RANK"]): p for p in family if "--output" in p.cmdline() and "RANK" in p.environ()}
        else:
            assert not any(one.process.exitcode for one in forked), [one.outputs[1].read_text(encoding="utf-8")[-3000:] for one in forked]
            found = {rank: psutil.Process(one.process.pid) for rank, one in enumerate(forked)}
        conductor = next(p for p in found[0].children() if "pipelines.launcher.conductor" in p.cmdline())
        started.append(Launch(folder, found, conductor, process, forked))
        return started[-1]

    yield start
    for one in started:
        for process in (*one.ranks.values(), one.conductor):
            if process.is_running():
                process.kill()
        if one.launcher:
            one.launcher.kill()
            one.launcher.communicate()


def test_a_killed_rank_is_named(launch: Callable[..., Launch]) -> None:
    run = launch(ranks=2)
    run.strike(run.ranks[1].kill)
    run.end()
    run.check(f"rank 1 on {HERE} died: its process was killed")
    assert f"suite: the run was given up: rank 1 on {HERE} died" in run.errors


def test_a_killed_rank_0_is_named_by_the_conductor_which_writes_the_report(launch: Callable[..., Launch]) -> None:
    run = launch(ranks=2)
    run.strike(run.ranks[0].kill)
    run.end()
    run.conductor.wait(30)
    run.check(f"rank 0 on {HERE} died: its process was killed")


def test_a_rank_that_hangs_is_named_with_its_query_and_ends_itself(launch: Callable[..., Launch]) -> None:
    run = launch("answer_timeout_s=2", ranks=2, way="hang")
    run.strike(lambda: None)
    run.end()
    run.check(f"rank 1 on {HERE} hangs: no answer for 2 s (answer_timeout_s) while it works on query ")


@pytest.mark.slow
def test_a_node_that_disappears_is_named(launch: Callable[..., Launch]) -> None:
    """A process that is stopped says as little as one whose machine or network is gone."""
    run = launch("heartbeat_timeout_s=3", ranks=2)
    run.strike(run.ranks[1].suspend)
    run.end(without=1)
    run.check(f"rank 1 on {HERE} has been silent for 3 s (heartbeat_timeout_s)")


def test_a_rank_0_that_is_stopped_is_named_and_killed_by_the_conductor_which_writes_the_report(launch: Callable[..., Launch]) -> None:
    run = launch("heartbeat_timeout_s=3")
    run.strike(run.ranks[0].suspend)
    run.end()
    run.conductor.wait(30)
    run.check(f"rank 0 on {HERE} has been silent for 3 s (heartbeat_timeout_s)")
    assert f"suite: the run was given up: rank 0 on {HERE} has been silent for 3 s" in run.errors


@pytest.mark.slow
def test_ranks_whose_launcher_is_killed_end_the_run(launch: Callable[..., Launch]) -> None:
    run = launch(launcher=TWO_RANKS)
    assert run.launcher
    run.strike(run.launcher.kill)
    for process in (*run.ranks.values(), run.conductor):
        process.wait(15)
    run.check("interrupted by the end of its launcher (process ")


@pytest.mark.slow
def test_a_rank_whose_conductor_disappears_ends_itself(launch: Callable[..., Launch]) -> None:
    """As where rank 0's node is gone, and nobody is left to end the others."""
    run = launch("heartbeat_timeout_s=3", ranks=2)
    run.conductor.suspend()
    run.strike(run.ranks[0].suspend)
    run.ranks[1].wait(30)
    assert time.monotonic() - run.struck < 30
    run.read_errors()
    assert f"the conductor, on rank 0's host, has been silent for 3 s; rank 1 on {HERE} was still busy and ends" in run.errors


def test_a_dead_conductor_is_reported_by_rank_0_which_fails_what_was_issued(launch: Callable[..., Launch]) -> None:
    run = launch("load.target_qps=20", "load.target_latency_s=100", scenario="server")
    run.strike(run.conductor.kill)
    run.end()
    run.check(f"the conductor on {HERE} died (killed by SIGKILL)")


def test_a_signal_ends_a_rank_that_is_stuck_in_its_engine_and_keeps_what_is_finished(launch: Callable[..., Launch]) -> None:
    run = launch(way="stuck")
    time.sleep(1.0)
    run.strike(run.ranks[0].terminate)
    run.end()
    assert run.forked[0].process.exitcode == 130
    run.check(f"interrupted by SIGTERM at rank 0 on {HERE}")
    assert f"suite: interrupted by SIGTERM: rank 0 on {HERE} waited outside of Python and ends" in run.errors


def test_a_query_without_memory_fails_alone(launch: Callable[..., Launch]) -> None:
    run = launch("load.min_query_count=12", "load.min_duration_s=0.1", "load.target_qps=9", way="memory")
    run.forked[0].process.join(60)
    assert run.forked[0].process.exitcode == 3
    failed = [r for r in run.records if r["status"] == "failed"]
    assert [r["query_id"] for r in failed] == [4]
    assert len(run.records) >= 12
    assert run.read("outcome.json")["performance"]["aborted"] is None
    assert any("OutOfMemoryError: HIP out of memory. Tried to allocate 96.00 GiB (rank 0" in r for r in run.read("report.json")["reasons"])


def test_an_answer_whose_file_cannot_be_written_has_failed(launch: Callable[..., Launch]) -> None:
    run = launch("load.min_query_count=8", "load.min_duration_s=0.1", "load.target_qps=9", "truth.replays=0", way="file")
    run.forked[0].process.join(60)
    assert run.forked[0].process.exitcode == 3
    error = "media/performance-000004.mkv could not be written: Is a directory"
    assert [(r["query_id"], r["error"], r.get("media")) for r in run.records if r["status"] == "failed"] == [(4, error, None)]
    outcome, report = run.read("outcome.json")["performance"], run.read("report.json")
    assert (outcome["num_failed"], outcome["num_done"], outcome["aborted"]) == (1, len(run.records) - 1, None)
    assert f"1 of {len(run.records)} queries failed or did not finish; first: {error} (rank 0)" in report["reasons"]


def test_sigterm_to_the_launcher_ends_every_rank(launch: Callable[..., Launch]) -> None:
    run = launch(launcher=TWO_RANKS)
    assert run.launcher
    run.strike(run.launcher.terminate)
    run.end()
    run.check("interrupted by SIGTERM at rank ", f" on {HERE}")


def test_a_full_disk_is_reported_with_the_reserved_space(launch: Callable[..., Launch], tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=80m", "none", disk], capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        run = launch(folder=disk)
        run.strike(lambda: _fill(disk))
        run.end()
        run.check("No space left on device")
        assert HERE in run.read("outcome.json")["performance"]["aborted"]
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def _fill(disk: Path) -> None:
    with (disk / "rubbish").open("wb", buffering=0) as file:
        size = 2**20
        while size:
            try:
                file.write(b"\1" * size)
            except OSError:
                size //= 2
