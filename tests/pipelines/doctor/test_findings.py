"""The preflight: what it says of clusters made by hand, and real examinations of one and two ranks on a CPU."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pipelines.devices.environment import ENVIRONMENT
from pipelines.doctor.examination import (
    Collective,
    Examination,
    Finding,
    Link,
    Pair,
    RankFacts,
    Topology,
    newest_fitting,
    without_names,
    write_examination,
)
from pipelines.doctor.facts import environment, num_host_gpus
from pipelines.doctor.findings import findings
from pipelines.doctor.links import both_sides, slowest
from pipelines.doctor.schedule import groups, rounds
from pipelines.doctor.topology import parse_amd_smi, parse_nvidia_smi, parse_rocm_smi
from pipelines.launcher.provenance import write_system
from tests.conftest import ROOT, TWO_RANKS, SuiteRun, last_line, suite_env

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


def cluster(num_hosts: int = 12, per_host: int = 8, **changes: Any) -> Examination:
    """Healthy hosts h0, h1 ... of MI300X that all do 600 TFLOP/s, 48 GB/s within a host and 40 GB/s between hosts."""
    facts: dict[str, Any] = {
        "device_name": "MI300X",
        "num_visible_gpus": per_host,
        "num_host_gpus": per_host,
        "versions": {"torch": "2.10", "hip": "7.1"},
        "tflops": 600.0,
    }
    ranks = [
        RankFacts(h * per_host + i, i, f"h{h}", f"cuda:{i}", pci_bus=f"0000:{i}0:00.0", **facts)
        for h in range(num_hosts)
        for i in range(per_host)
    ]
    hosts = [r.host for r in ranks]
    pairs = [Pair(r.scope, p, 1e-5, 48e9 if r.scope == "intra-node" else 40e9) for r in rounds(hosts) for p in r.pairs]
    collectives = [Collective("all_reduce", g.scope, g.ranks, 2e-5, 300e9) for several in groups(hosts) for g in several]
    return replace(Examination("2026-01-01T00:00:00Z", "nccl", len(ranks), ranks, collectives, pairs), **changes)


def with_rank(examination: Examination, rank: int, **changes: Any) -> Examination:
    return replace(examination, ranks=[replace(r, **changes) if r.rank == rank else r for r in examination.ranks])


def only(found: list[Finding], level: str = "error") -> Finding:
    assert len(found) == 1, found
    assert found[0].level == level
    return found[0]


def test_a_healthy_cluster_of_96_gives_no_finding() -> None:
    assert findings(cluster()) == []


def test_a_slow_gpu_is_named_with_rank_bus_and_host() -> None:
    found = only(findings(with_rank(cluster(), 43, tflops=480.0)))
    assert found.ranks == [43]
    assert "rank 43 (cuda:3 at 0000:30:00.0 on h5) is slow: 480 TFLOP/s in bfloat16, 20% below the median of 96 x MI300X" in found.text


def test_a_gpu_within_the_margin_is_not_named() -> None:
    assert findings(with_rank(cluster(), 43, tflops=545.0)) == []


def test_figures_are_compared_within_one_model() -> None:
    mixed = cluster(2, 2)
    for rank in (2, 3):
        mixed = with_rank(mixed, rank, device_name="MI355X", tflops=1200.0)
    found = only(findings(mixed), "warning")
    assert "device model of rank 2" in found.text
    assert "MI355X where most have MI300X" in found.text


def test_a_host_with_seven_ranks_for_eight_gpus_names_the_gpu_without_one() -> None:
    whole = cluster()
    found = findings(replace(whole, num_ranks=95, ranks=[r for r in whole.ranks if r.rank != 43], pairs=[], collectives=[]))
    assert [f.level for f in found] == ["error", "error"]
    assert "host h5 has 7 ranks for 8 visible GPUs; without a rank: GPU 3;" in found[0].text
    assert "host h5 has 7 ranks where most have 8" in found[1].text


def test_a_gpu_gone_from_its_bus_is_told_from_one_that_is_hidden() -> None:
    whole = cluster(2, 8)
    gone, hidden = whole, whole
    for rank in range(8, 16):
        gone = with_rank(gone, rank, num_visible_gpus=7, num_host_gpus=7)
        hidden = with_rank(hidden, rank, num_visible_gpus=7)
    gone, hidden = (replace(e, ranks=e.ranks[:15]) for e in (gone, hidden))
    assert any("host h1 has 7 GPUs where most have 8: one is gone from its bus" in f.text for f in findings(gone))
    assert any("host h1: 7 of its 8 GPUs are visible; look at ROCR_VISIBLE_DEVICES" in f.text for f in findings(hidden))


def test_one_rank_on_a_host_of_eight_gpus_is_a_warning_only() -> None:
    assert "GPU 1, 2, 3" in only(findings(with_rank(cluster(1, 1), 0, num_visible_gpus=4, num_host_gpus=4)), "warning").text


def test_two_ranks_on_one_gpu_are_named() -> None:
    shared = with_rank(cluster(1, 2), 1, device="cuda:0", pci_bus="0000:00:00.0", num_visible_gpus=1)
    texts = [f.text for f in findings(with_rank(shared, 0, num_visible_gpus=1)) if f.level == "error"]
    assert texts == [
        "rank 0 (cuda:0 at 0000:00:00.0 on h0) and rank 1 (cuda:0 at 0000:00:00.0 on h0) share one GPU; "
        "launch no more ranks than GPUs, each with its own device"
    ]


def test_a_slow_pair_is_named_and_a_rank_with_slow_links_instead_of_its_pairs() -> None:
    whole = cluster(2, 4)
    one = [replace(p, bandwidth=10e9) if p.ranks == (1, 2) else p for p in whole.pairs]
    found = only(findings(replace(whole, pairs=one)))
    assert found.ranks == [1, 2]
    assert "is slow: 10 GB/s, 79% below the median of 12 intra-node pairs (48 GB/s)" in found.text
    several = [replace(p, bandwidth=4e9) if 6 in p.ranks and p.scope == "inter-node" else p for p in whole.pairs]
    found = only(findings(replace(whole, pairs=several)))
    assert found.ranks == [6]
    assert "rank 6 (cuda:2 at 0000:20:00.0 on h1) has slow links: 4 of its 4 inter-node pairs" in found.text
    assert "NCCL_IB_HCA" in found.text


def test_a_host_whose_collectives_are_slow_is_named() -> None:
    whole = cluster()
    slow = [replace(c, bus_bandwidth=200e9) if c.ranks == list(range(40, 48)) else c for c in whole.collectives]
    found = only(findings(replace(whole, collectives=slow)))
    assert "all_reduce among 8 ranks (8 on h5) is slow: 200 GB/s, 33% below the median of 12 such groups" in found.text


def test_what_is_slow_on_processors_is_a_warning_only() -> None:
    whole = cluster(1, 4)
    on_cpu = [replace(r, device="cpu", dtype="float32", num_visible_gpus=0, num_host_gpus=None) for r in whole.ranks]
    pairs = [replace(p, bandwidth=1e9) if p.ranks == (0, 1) else p for p in whole.pairs]
    assert "1 GB/s" in only(findings(replace(whole, ranks=on_cpu, pairs=pairs)), "warning").text
    assert findings(replace(whole, ranks=[replace(on_cpu[0], tflops=350.0), *on_cpu[1:]])) == []  # under 50 %


def test_wrong_values_and_a_failed_product_are_errors() -> None:
    whole = cluster(1, 2)
    assert "gave wrong values" in only(findings(replace(whole, pairs=[replace(whole.pairs[0], correct=False)]))).text
    broken = with_rank(whole, 1, tflops=None, error="RuntimeError: HIP error: out of memory")
    assert "rank 1 (cuda:1 at 0000:10:00.0 on h0) failed a matrix product: RuntimeError: HIP error" in only(findings(broken)).text


def test_another_version_is_an_error_and_another_variable_a_warning() -> None:
    other = with_rank(cluster(2, 2), 3, versions={"torch": "2.9", "hip": "7.1"}, environment={"NCCL_MIN_NCHANNELS": "112"})
    error, warning = findings(other)
    assert error.text.startswith("torch version of rank 3 (cuda:1 at 0000:10:00.0 on h1) is 2.9 where most have 2.10")
    assert "NCCL_MIN_NCHANNELS of rank 3" in warning.text
    assert (error.level, warning.level) == ("error", "warning")


def test_each_rank_may_see_one_gpu_of_its_own() -> None:
    whole = cluster(1, 2)
    for rank in (0, 1):
        whole = with_rank(whole, rank, device="cuda:0", num_visible_gpus=1, environment={"HIP_VISIBLE_DEVICES": str(rank)})
    assert findings(whole) == []


@pytest.mark.parametrize(("versions", "fix"), [({"hip": None, "cuda": None}, "install the ROCm"), ({"hip": "7.1"}, "/dev/kfd")])
def test_a_processor_in_place_of_a_gpu_is_an_error_with_the_fix(versions: dict[str, str | None], fix: str) -> None:
    found = only(findings(with_rank(cluster(1, 1), 0, device="cpu", dtype="float32", num_visible_gpus=0, versions=versions)))
    assert "is on the processor though its host has GPUs" in found.text
    assert fix in found.text


def test_ranks_that_did_not_answer_are_named_also_before_they_told_of_themselves() -> None:
    found = only(findings(cluster(1, 2, silent={1: "pairs, round 1, intra-node"})))
    assert "rank 1 (cuda:1 at 0000:10:00.0 on h0) did not get through step 'pairs, round 1, intra-node'" in found.text
    found = only(findings(cluster(1, 2, num_ranks=3, silent={0: "pairs, round 1", 1: "pairs, round 1"})))
    assert "look at the link between them" in found.text
    found = only(findings(Examination("", "nccl", 4, [], silent={2: "start", 3: "start"})))
    assert found.text.startswith("rank 2 and rank 3 did not get through step 'start'")
    found = only(findings(Examination("", "nccl", 8, [], silent=dict.fromkeys(range(3, 8), "start"))))
    assert found.text.startswith("5 ranks (3, 4, 5, 6, 7) did not")
    assert "no rank got through" in only(findings(cluster(1, 2, silent={0: "collectives, all", 1: "collectives, all"}))).text


def test_numa_balancing_a_false_architecture_and_a_link_that_is_down_are_found() -> None:
    whole = with_rank(cluster(1, 4), 0, numa_balancing=True, environment={"HSA_OVERRIDE_GFX_VERSION": "9.4.2"})
    links = [Link(pair, "PCIE" if pair == (1, 3) else "XGMI") for pair in combinations(range(4), 2)]
    texts = [f.text for f in findings(with_rank(whole, 0, topology=Topology("amd-smi", links)))]
    assert any("host h0: GPUs 1 and 3 are joined by PCIE where most are by XGMI" in text for text in texts)
    assert any("echo 0 > /proc/sys/kernel/numa_balancing" in text for text in texts)
    assert any("HSA_OVERRIDE_GFX_VERSION makes the GPU pass for another" in text for text in texts)


def test_few_ranks_are_all_paired_once_in_rounds_without_overlap() -> None:
    for hosts in (["a"] * 5, ["a"] * 4 + ["b"] * 4, ["a", "a", "b", "b", "b", "c"], ["a", "b"]):
        done = [pair for r in rounds(hosts) for pair in r.pairs]
        assert sorted(done) == list(combinations(range(len(hosts)), 2))
        for r in rounds(hosts):
            busy = [rank for pair in r.pairs for rank in pair]
            assert len(busy) == len(set(busy))
            assert all((hosts[a] == hosts[b]) == (r.scope == "intra-node") for a, b in r.pairs)


def test_many_ranks_take_few_rounds_that_cover_every_pair_on_a_host_and_every_two_hosts() -> None:
    hosts = [f"h{i // 8}" for i in range(96)]
    done = rounds(hosts)
    assert len(done) == 7 + 11
    pairs = [pair for r in done for pair in r.pairs]
    assert sum(hosts[a] == hosts[b] for a, b in pairs) == 12 * 28
    assert {(hosts[a], hosts[b]) for a, b in pairs if hosts[a] != hosts[b]} == set(combinations(dict.fromkeys(hosts), 2))
    assert len(rounds(["h0"])) == 0


def test_groups_are_all_ranks_each_host_and_each_place() -> None:
    assert groups(["a"]) == []
    assert [[g.ranks for g in several] for several in groups(["a", "a", "b", "b", "b"])] == [
        [[0, 1, 2, 3, 4]],
        [[0, 1], [2, 3, 4]],
        [[0, 2], [1, 3]],
    ]


def test_the_slowest_rank_of_a_collective_and_both_sides_of_a_pair_count() -> None:
    seen = [Collective("all_reduce", "all", [0, 1], 1e-5, 10e9), Collective("all_reduce", "all", [0, 1], 3e-5, 8e9, False)]
    assert slowest(seen) == [Collective("all_reduce", "all", [0, 1], 3e-5, 8e9, False)]
    sides = [Pair("intra-node", (0, 1), 2e-5, 5e9), Pair("intra-node", (0, 1), 1e-5, 6e9)]
    assert both_sides(sides) == [Pair("intra-node", (0, 1), 2e-5, 5e9)]


def test_the_vendors_programs_are_understood() -> None:
    amd = [
        {"gpu": 0, "links": [{"gpu": 0, "link_type": "SELF"}, {"gpu": 1, "link_type": "XGMI", "num_hops": 1}]},
        {"gpu": 1, "links": [{"gpu": 0, "link_type": "XGMI", "num_hops": 1}, {"gpu": 1, "link_type": "SELF"}]},
    ]
    assert parse_amd_smi(json.dumps(amd)) == [Link((0, 1), "XGMI", 1)]
    rocm = {
        "(Topology) Weight between DRM devices 0 and 1": "15",
        "(Topology) Hops between DRM devices 0 and 1": "1",
        "(Topology) Link type between DRM devices 0 and 1": "XGMI",
    }
    assert parse_rocm_smi(json.dumps({"card0": {"(Topology) Numa Node": "0"}, "system": rocm})) == [Link((0, 1), "XGMI", 1)]
    nvidia = "\tGPU0\tGPU1\tNIC0\tCPU Affinity\nGPU0\t X \tNV18\tPIX\t0-7\nGPU1\tNV18\t X \tSYS\t0-7\nNIC0\tPIX\tSYS\t X \n\nLegend:\n"
    assert parse_nvidia_smi(nvidia) == [Link((0, 1), "NV18")]
    assert parse_nvidia_smi("\tGPU0\tCPU Affinity\nGPU0\t X \t0-7\n") == []


def test_the_kernel_tells_how_many_gpus_there_are(tmp_path: Path) -> None:
    assert num_host_gpus(tmp_path, tmp_path) is None
    for number, units in enumerate((0, 304, 304)):
        node = tmp_path / f"class/kfd/kfd/topology/nodes/{number}"
        node.mkdir(parents=True)
        (node / "properties").write_text(f"cpu_cores_count 0\nsimd_count {units}\n", encoding="utf-8")
    assert num_host_gpus(tmp_path, tmp_path) == 2


def test_only_variables_that_matter_are_kept_and_each_has_a_meaning() -> None:
    variables = {"HOME": "/x", "NCCL_IB_HCA": "mlx5", "NCCL_HOSTID": "secret", "RCCL_MSCCL_ENABLE": "0", "HIP_VISIBLE_DEVICES": "0"}
    assert environment(variables) == {"HIP_VISIBLE_DEVICES": "0", "NCCL_IB_HCA": "mlx5", "RCCL_MSCCL_ENABLE": "0"}
    assert all(variable.meaning for variable in ENVIRONMENT)
    assert len({variable.name for variable in ENVIRONMENT}) == len(ENVIRONMENT)


def test_a_runs_system_file_holds_the_newest_fitting_examination_without_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    run = tmp_path / "outputs/run"
    run.mkdir(parents=True)
    write_system(run)
    assert json.loads((run / "system.json").read_text(encoding="utf-8"))["doctor"] is None
    here = with_rank(cluster(1, 2), 1, tflops=100.0, environment={"NCCL_TOPO_FILE": "/home/me/topo.xml"})
    here = replace(here, ranks=[replace(r, host=socket.gethostname()) for r in here.ranks])
    for name, time, made in (
        ("doctor.json", "2026-01-02", here),
        ("doctor_old.json", "2026-01-01", here),
        ("doctor_elsewhere.json", "2026-01-03", cluster(1, 2)),
        ("doctor_more.json", "2026-01-04", cluster(1, 3)),
    ):
        write_examination(tmp_path / "outputs" / name, replace(made, time=time), findings(made))
    (tmp_path / "outputs/doctor_cut.json").write_text('{"schema": "trip', encoding="utf-8")
    write_system(run)
    text = (run / "system.json").read_text(encoding="utf-8")
    doctor = json.loads(text)["doctor"]
    assert doctor["time"] == "2026-01-02"
    assert "rank 1 (cuda:1 at 0000:10:00.0 on host 0) is slow" in doctor["findings"][0]["text"]
    assert [r["host"] for r in doctor["ranks"]] == ["host 0", "host 0"]
    assert "/home/me" not in text
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert newest_fitting([tmp_path / "outputs"]) is None


def test_an_examination_is_read_as_it_was_written(tmp_path: Path) -> None:
    whole = without_names(cluster(2, 2, silent={1: "start"}))
    write_examination(tmp_path / "doctor.json", whole, findings(whole))
    assert msgspec.json.decode((tmp_path / "doctor.json").read_bytes(), type=Examination) == whole


@on_gpu_host
def test_one_rank_is_examined(suite: SuiteRun, tmp_path: Path) -> None:
    done = suite("doctor", env={"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    line = last_line(done)
    assert line["verdict"] == "PASS"
    assert line["headline"]["device_tflops"] > 0
    found = msgspec.json.decode((tmp_path / "outputs/doctor.json").read_bytes(), type=Examination)
    assert (found.num_ranks, found.pairs, found.collectives) == (1, [], [])
    assert found.ranks[0].versions["torch"]


@on_gpu_host
def test_two_ranks_measure_their_collectives_and_their_link(suite: SuiteRun, tmp_path: Path) -> None:
    done = suite("doctor", "--output", "here", launcher=TWO_RANKS)
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


def test_a_file_that_cannot_be_written_is_told_before_anything_is_measured(suite: SuiteRun) -> None:
    done = suite("doctor", "--output", "/proc/here/doctor.json")
    assert done.returncode == 1
    assert done.stderr.startswith("suite: '/proc/here/doctor.json' cannot be written")
    assert "Traceback" not in done.stderr
