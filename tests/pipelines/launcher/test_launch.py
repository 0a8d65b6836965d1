"""The launch as users start it: one and two ranks, ranks that die, runs that are interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from configs.errors import RunError
from configs.load_config import load_config
from pipelines.distributed.ranks import join_ranks
from tests.conftest import ACCELERATE, QUICK, ROOT, TWO_RANKS, SuiteRun, last_line, read_report, suite_env

SLOW = ["--config", "t2v/toy", "--set", "pipeline.seconds=0.2", "--set", "load.min_query_count=400", "--output", "run"]


def start(folder: Path, *arguments: str, launcher: list[str]) -> subprocess.Popen[str]:
    command = [*launcher, str(ROOT / "suite.py"), *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=folder, env=suite_env(), stdout=pipe, stderr=pipe, text=True, start_new_session=True, preexec_fn=_hear_ctrl_c
    )


def _hear_ctrl_c() -> None:
    """A shell's background jobs, which a CI's may be, start with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for_records(folder: Path, count: int) -> None:
    file = folder / "run/records.jsonl"
    for _ in range(1200):
        if file.exists() and file.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.1)
    pytest.fail("no records came")


def records(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "run/records.jsonl").read_text(encoding="utf-8").splitlines()]


def test_two_ranks_share_the_work_and_agree_with_loadgen(suite: SuiteRun) -> None:
    done = suite("--config", "t2v/toy", "--set", "pipeline.seconds=0.1", *QUICK, launcher=TWO_RANKS)
    assert done.returncode == 0, done.stderr
    report = read_report(done)
    assert (report["verdict"], report["device"]) == ("VALID", "2 x cpu")
    assert report["agreement"][0]["agrees"]
    lines = (Path(last_line(done)["run"]) / "records.jsonl").read_text(encoding="utf-8").splitlines()
    ranks = [json.loads(line)["rank"] for line in lines]
    assert min(ranks.count(0), ranks.count(1)) >= len(ranks) // 4


def test_two_ranks_give_the_answers_of_one(suite: SuiteRun) -> None:
    digests = []
    for ranks in (1, 2):
        done = suite("--config", "t2v/toy", "--mode", "accuracy", *QUICK, ranks=ranks)
        lines = [json.loads(x) for x in (Path(last_line(done)["run"]) / "records.jsonl").read_text(encoding="utf-8").splitlines()]
        digests.append({x["sample_index"]: x["digest"] for x in lines})
    assert len(digests[0]) == 8
    assert digests[0] == digests[1]


def test_accelerates_silent_single_process_is_refused(suite: SuiteRun) -> None:
    done = suite("--config", "t2v/toy", launcher=[*ACCELERATE, "--cpu", "--num_processes", "2"])
    assert done.returncode != 0
    assert "2 processes were requested of accelerate launch, which started one" in done.stderr
    assert "configs/accelerate/cpu_2.yaml" in done.stderr


def test_ranks_that_run_alone_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = SimpleNamespace(num_processes=1, process_index=0, device="cpu")
    monkeypatch.setattr("accelerate.PartialState", lambda **_: alone)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RunError, match="2 processes were started but Accelerate joined 1: every rank runs alone"):
        join_ranks(load_config(None, "t2v/toy"))


def test_ctrl_c_keeps_what_is_finished_and_says_how_to_report_on_it(tmp_path: Path, suite: SuiteRun) -> None:
    process = start(tmp_path, *SLOW, launcher=[sys.executable])
    wait_for_records(tmp_path, 3)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in errors
    assert "suite.py report run" in errors
    assert "Traceback" not in errors
    done = suite("report", "run")
    assert done.returncode == 3
    report = read_report(done)
    assert report["verdict"] == "INVALID"
    assert report["num_queries"]["done"] >= 3
    assert report["num_queries"]["failed"] > 0
    assert any("interrupted" in reason for reason in report["reasons"])


def test_a_killed_launch_leaves_its_records(tmp_path: Path) -> None:
    process = start(tmp_path, *SLOW, launcher=[sys.executable])
    wait_for_records(tmp_path, 3)
    process.kill()
    process.communicate(timeout=60)
    assert sum(r["status"] == "done" for r in records(tmp_path)) >= 3


def test_a_pipeline_that_cannot_load_ends_the_run_with_its_reason(suite: SuiteRun) -> None:
    done = suite("--workload", "t2v", "--set", "pipeline.model=/no/such/model", launcher=TWO_RANKS)
    assert done.returncode != 0
    assert done.stderr.count("suite: ") == 1
    assert "model '/no/such/model' cannot be loaded" in done.stderr
