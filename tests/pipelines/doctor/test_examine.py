"""Real examinations of one and two ranks on a CPU."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from pipelines.doctor.examination import (
    Collective,
    Examination,
    Pair,
)
from pipelines.doctor.facts import num_host_gpus
from pipelines.doctor.links import both_sides, slowest
from tests.conftest import ROOT, SuiteRun, last_line, suite_env

on_gpu_host = pytest.mark.skipif(bool(num_host_gpus()), reason="the doctor rightly finds fault with a GPU that is not used")


HANGING = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from pipelines.devices.environment import ENVIRONMENT
from pipelines.doctor import examine, links
if os.environ["RANK"] == "1":
    links.product_tflops = lambda *_: time.sleep(100)
sys.exit(0 if examine.examine(Path("doctor.json"), timeout_s=2.0) else 3)
"""


def test_the_slowest_rank_of_a_collective_and_both_sides_of_a_pair_count() -> None:
    seen = [Collective("all_reduce", "all", [0, 1], 1e-5, 10e9), Collective("all_reduce", "all", [0, 1], 3e-5, 8e9, False)]
    assert slowest(seen) == [Collective("all_reduce", "all", [0, 1], 3e-5, 8e9, False)]
    sides = [Pair("intra-node", (0, 1), 2e-5, 5e9), Pair("intra-node", (0, 1), 1e-5, 6e9)]
    assert both_sides(sides) == [Pair("intra-node", (0, 1), 2e-5, 5e9)]


@on_gpu_host
def test_one_rank_is_examined(suite: SuiteRun, tmp_path: Path) -> None:
    done = suite("doctor")
    assert done.returncode == 0, done.stderr
    line = last_line(done)
    assert line["verdict"] == "PASS"
    assert line["headline"]["device_tflops"] > 0
    found = msgspec.json.decode((tmp_path / "outputs/doctor.json").read_bytes(), type=Examination)
    assert (found.num_ranks, found.pairs, found.collectives) == (1, [], [])
    assert found.ranks[0].versions["torch"]


@on_gpu_host
def test_two_ranks_measure_their_collectives_and_their_link(suite: SuiteRun, tmp_path: Path) -> None:
    done = suite("doctor", "--output", "here", ranks=2)
    line = last_line(done)
    found = msgspec.json.decode((tmp_path / "here/doctor.json").read_bytes(), type=Examination)
    assert line["doctor"] == str(tmp_path / "here/doctor.json")
    assert (line["num_ranks"], found.backend) == (2, "gloo")
    assert [(c.operation, c.scope, c.ranks, c.correct) for c in found.collectives] == [
        ("all_reduce", "all", [0, 1], True),
        ("all_gather", "all", [0, 1], True),
    ]
    assert [(p.scope, p.ranks, p.correct) for p in found.pairs] == [("intra-node", (0, 1), True)]
    assert all(1e6 < bandwidth < 1e12 for bandwidth in (found.pairs[0].bandwidth, *(c.bus_bandwidth for c in found.collectives)))
    assert all(1e-7 < latency_s < 1 for latency_s in (found.pairs[0].latency_s, *(c.latency_s for c in found.collectives)))
    assert "all_reduce, all, n=2" in done.stderr


def test_a_rank_that_hangs_is_named_within_the_time_limit(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    env = suite_env() | {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", HANGING.format(root=str(ROOT))]
    stuck = subprocess.Popen(command, cwd=tmp_path, env=env | {"RANK": "1", "LOCAL_RANK": "1"})
    try:
        first = env | {"RANK": "0", "LOCAL_RANK": "0"}
        done = subprocess.run(command, cwd=tmp_path, env=first, capture_output=True, text=True, timeout=60)
    finally:
        stuck.kill()
        stuck.wait()
    assert done.returncode == 3, done.stderr
    assert last_line(done)["verdict"] == "FAIL"
    found = json.loads((tmp_path / "doctor.json").read_text(encoding="utf-8"))
    assert found["silent"] == {"1": "matrix product"}
    assert found["findings"][0]["text"].startswith("rank 1 (cpu")


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_measured(suite: SuiteRun) -> None:
    done = suite("doctor", "--output", "/proc/here/doctor.json")
    assert done.returncode == 1
    assert done.stderr.startswith("suite: '/proc/here/doctor.json' cannot be written")
    assert "Traceback" not in done.stderr
