"""The launch as users start it: one and two ranks, ranks that die, runs that are interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from configs.errors import ConfigError
from configs.load_config import parse_config
from pipelines.launcher.launch import _make_pipeline
from tests.conftest import ACCELERATE, BRIEF, ROOT, TWO_RANKS, SuiteRun, last_line, read_report, suite_env

BROKEN = '''
from dataclasses import dataclass
from configs.errors import ConfigError
from configs.registry import register
from pipelines.toy.t2v import ToyT2V

@register("broken")
@dataclass
class Broken(ToyT2V):
    """Its model is not there."""

    def load(self, device):
        raise ConfigError("model '/no/such/model' cannot be loaded")
'''
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
    return [json.loads(line) for line in (folder / "records.jsonl").read_text(encoding="utf-8").splitlines()]


def test_two_ranks_share_the_work_agree_with_loadgen_and_give_the_answers_of_one(suite: SuiteRun) -> None:
    done = suite("--config", "t2v/toy", "--set", "pipeline.seconds=0.1", *BRIEF, "--output", "run", launcher=TWO_RANKS)
    assert done.returncode == 0, done.stderr
    report = read_report(done)
    assert (report["verdict"], report["device"]) == ("VALID", "2 x cpu")
    assert report["agreement"][0]["agrees"]
    timed = records(Path(last_line(done)["run"]))
    ranks = [r["rank"] for r in timed]
    assert min(ranks.count(0), ranks.count(1)) >= len(ranks) // 4
    alone = suite("--config", "t2v/toy", "--mode", "accuracy", *BRIEF, "--output", "alone")
    digests = {r["sample_index"]: r["digest"] for r in records(Path(last_line(alone)["run"]))}
    assert len(digests) == 8
    assert {r["digest"] == digests[r["sample_index"]] for r in timed} == {True}


def test_accelerates_silent_single_process_is_refused(suite: SuiteRun) -> None:
    done = suite("--config", "t2v/toy", launcher=[*ACCELERATE, "--cpu", "--num_processes", "2"], env={})
    assert done.returncode != 0
    assert "2 processes were requested of accelerate launch, which started one" in done.stderr
    assert "configs/accelerate/cpu_2.yaml" in done.stderr


def test_ctrl_c_keeps_what_is_finished_whatever_signals_follow_and_says_how_to_report_on_it(tmp_path: Path, suite: SuiteRun) -> None:
    process = start(tmp_path, *SLOW, launcher=[sys.executable])
    wait_for_records(tmp_path, 3)
    second = suite(*SLOW)
    assert second.returncode == 1
    assert f"run 'run' is still being written by process {process.pid} on {os.uname().nodename}" in second.stderr
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)  # neither of these interrupts the end
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted by SIGINT" in errors
    assert "suite.py report run" in errors
    assert "Traceback" not in errors
    done = suite("report", "run")
    assert done.returncode == 3
    report = read_report(done)
    assert report["verdict"] == "INVALID"
    assert report["num_queries"]["done"] >= 3
    assert report["num_queries"]["failed"] > 0
    assert any("interrupted by SIGINT" in reason for reason in report["reasons"])
    states = [r["status"] for r in records(tmp_path / "run")]
    assert (states.count("done"), states.count("failed")) == (report["num_queries"]["done"], report["num_queries"]["failed"])


def test_a_pipeline_that_cannot_load_ends_the_run_with_its_reason(suite: SuiteRun, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(BROKEN, encoding="utf-8")
    done = suite("--config", "t2v/toy", "--plugin", "broken.py", "--set", "pipeline.name=broken", ranks=2)
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if line.startswith("suite: ")]
    expected = ["suite: 16 prompts", "suite: loading broken", "suite: model '/no/such/model' cannot be loaded"]
    assert [line.partition(", the first: ")[0] for line in said] == expected


@pytest.mark.parametrize("batch_size", [0, -4])
def test_a_batch_size_below_one_is_refused(batch_size: int) -> None:
    config = parse_config({"workload": "t2v", "pipeline": {"name": "toy_t2v", "batch_size": batch_size}}, "test")
    with pytest.raises(ConfigError, match=f"pipeline 'toy_t2v': batch_size must be at least 1, got {batch_size}"):
        _make_pipeline(config)
