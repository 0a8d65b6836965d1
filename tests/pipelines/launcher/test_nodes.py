"""Two nodes: network namespaces joined by a virtual cable, each with its own launcher, started as the documentation says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.conftest import QUICK, ROOT, TIMEOUT_S, TWO_RANKS, suite_env
from tests.forked_ranks import start_ranks

HEAD, OTHER, PORT = "10.203.7.1", "10.203.7.2", "29533"


def sh(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, text=True)


@pytest.fixture
def nodes() -> Iterator[tuple[str, str]]:
    """Names of two network namespaces that reach each other over the cards `cable`."""
    names = (f"triptych-{os.getpid()}-a", f"triptych-{os.getpid()}-b")
    try:
        for name in names:
            sh("ip", "netns", "add", name)
            sh("ip", "-n", name, "link", "set", "lo", "up")
        sh("ip", "link", "add", "cable", "netns", names[0], "type", "veth", "peer", "name", "cable", "netns", names[1])
        for name, own in zip(names, (HEAD, OTHER), strict=True):
            sh("ip", "-n", name, "address", "add", f"{own}/24", "dev", "cable")
            sh("ip", "-n", name, "link", "set", "cable", "up")
    except (OSError, subprocess.CalledProcessError) as error:
        _remove(names)
        pytest.skip(f"no network namespaces here: {getattr(error, 'stderr', None) or error}")
    yield names
    _remove(names)


def _remove(names: tuple[str, str]) -> None:
    for name in names:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def launch_on(
    nodes: tuple[str, str], folder: Path, *arguments: str, elsewhere: Sequence[str] = (), then: Callable[[], object] = lambda: None
) -> list[subprocess.CompletedProcess[str]]:
    """The same launch on both nodes, but for --machine_rank; rank 0's node first.

    elsewhere: put before the other node's command. then: called when both are started.
    """
    started = []
    for number, name in enumerate(nodes):
        across = ["--num_machines", "2", "--num_processes", "2", "--machine_rank", str(number), "--main_process_ip", HEAD]
        launcher = [word if word != "0" else PORT for word in TWO_RANKS]
        command = ["ip", "netns", "exec", name, *(elsewhere if number else ()), *launcher, *across, str(ROOT / "suite.py"), *arguments]
        env = suite_env() | {"GLOO_SOCKET_IFNAME": "cable", "OMP_NUM_THREADS": "1"}
        started.append(subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    then()
    try:
        outputs = [process.communicate(timeout=TIMEOUT_S) for process in started]
    except subprocess.TimeoutExpired:
        for process in started:
            process.kill()
        pytest.fail("\n".join(f"node {n}, {p.returncode}: {p.communicate()[1][-3000:]}" for n, p in enumerate(started)))
    return [subprocess.CompletedProcess(p.args, p.returncode, *output) for p, output in zip(started, outputs, strict=True)]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are Linux's")
def test_two_nodes_launched_as_documented_answer_one_run(nodes: tuple[str, str], tmp_path: Path) -> None:
    head, other = launch_on(nodes, tmp_path, "--config", "t2v/toy", *QUICK, "--set", "pipeline.seconds=0.1", "--output", "run")
    assert head.returncode == 0, head.stderr
    assert other.returncode == 0, other.stderr
    assert_shared(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are Linux's")
def test_two_nodes_answer_one_run(nodes: tuple[str, str], tmp_path: Path) -> None:
    """A rank a node, forked: a third of what two launchers take."""
    arguments = ["--config", "llm/toy", *QUICK, "--set", "pipeline.token_s=0.005", "--output", "run"]
    place = {"MASTER_ADDR": HEAD, "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "GLOO_SOCKET_IFNAME": "cable"}
    ranks = start_ranks(tmp_path, arguments, 2, suite_env() | {"OMP_NUM_THREADS": "1"}, place=place, namespaces=nodes)
    for rank in ranks:
        rank.process.join(TIMEOUT_S)
    assert [rank.process.exitcode for rank in ranks] == [0, 0], [rank.outputs[1].read_text(encoding="utf-8") for rank in ranks]
    assert_shared(tmp_path)


def assert_shared(tmp_path: Path) -> None:
    report = json.loads((tmp_path / "run/report.json").read_text(encoding="utf-8"))
    assert (report["verdict"], report["device"]) == ("VALID", "2 x cpu")
    records = [json.loads(line) for line in (tmp_path / "run/records.jsonl").read_text(encoding="utf-8").splitlines()]
    ranks = [r["rank"] for r in records]
    assert min(ranks.count(0), ranks.count(1)) >= len(ranks) // 4
    for rank in report["ranks"]:
        assert abs(rank["clock_offset_s"]) <= rank["clock_error_s"] < 0.5  # the nodes share a machine, and its clock
    assert all(r["started_s"] - 0.5 < r["worked_s"][0] <= r["worked_s"][1] < r["completed_s"] + 0.5 for r in records)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are Linux's")
def test_a_cable_that_is_pulled_ends_the_run_on_both_nodes(nodes: tuple[str, str], tmp_path: Path) -> None:
    def pull() -> None:
        records = tmp_path / "run/records.jsonl"
        for _ in range(1200):
            if records.exists() and records.read_bytes().count(b"\n") > 4:
                break
            time.sleep(0.1)
        sh("ip", "-n", nodes[1], "link", "set", "cable", "down")

    paced = ["--set", "pipeline.seconds=0.1", "--set", "load.min_query_count=1000", "--set", "heartbeat_timeout_s=3"]
    head, other = launch_on(nodes, tmp_path, "--config", "t2v/toy", *paced, "--output", "run", then=pull)
    assert (head.returncode, other.returncode) == (1, 1)
    here = os.uname().nodename
    assert f"rank 1 on {here} has been silent for 3 s (heartbeat_timeout_s)" in head.stderr
    assert "the conductor, on rank 0's host, has been silent for 3 s" in other.stderr
    report = json.loads((tmp_path / "run/report.json").read_text(encoding="utf-8"))
    assert report["verdict"] == "INVALID"
    outcome = json.loads((tmp_path / "run/outcome.json").read_text(encoding="utf-8"))["performance"]
    assert outcome["num_done"] + outcome["num_failed"] == outcome["num_issued"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are Linux's")
def test_videos_need_a_folder_that_all_nodes_see(nodes: tuple[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "of-one-node-alone"
    folder.mkdir()
    elsewhere = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs none {folder} && exec "$@"', "sh"]
    arguments = ["--config", "t2v/toy", *QUICK, "--output", str(folder / "run")]
    head, other = launch_on(nodes, tmp_path, *arguments, elsewhere=elsewhere)
    assert head.returncode != 0
    assert other.returncode != 0
    assert "cannot see the run folder" in head.stderr
    assert "a file system that all nodes share" in head.stderr
