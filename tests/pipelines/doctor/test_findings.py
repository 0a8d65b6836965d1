"""What the doctor says of clusters made by hand."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest

from pipelines.doctor.examination import (
    Examination,
    Link,
    Topology,
)
from pipelines.doctor.findings import findings
from tests.pipelines.doctor.clusters import cluster, only, with_rank


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


def test_a_host_with_seven_ranks_for_eight_gpus_reports_the_gpu_without_one() -> None:
    whole = cluster()
    found = findings(replace(whole, num_ranks=95, ranks=[r for r in whole.ranks if r.rank != 43], pairs=[], collectives=[]))
    assert [f.level for f in found] == ["error", "error"]
    assert "host h5 has 7 ranks for 8 visible GPUs; without a rank: GPU 3;" in found[0].text
    assert "host h5 has 7 ranks where most have 8" in found[1].text


def test_a_gpu_that_is_gone_from_its_bus_differs_from_one_that_is_hidden() -> None:
    whole = cluster(2, 8)
    gone, hidden = whole, whole
    for rank in range(8, 16):
        gone = with_rank(gone, rank, num_visible_gpus=7, num_host_gpus=7)
        hidden = with_rank(hidden, rank, num_visible_gpus=7)
    gone, hidden = (replace(e, ranks=e.ranks[:15]) for e in (gone, hidden))
    assert any("host h1 has 7 GPUs where most have 8: one is gone from its bus" in f.text for f in findings(gone))
    assert any("host h1: 7 of its 8 GPUs are visible; look at ROCR_VISIBLE_DEVICES" in f.text for f in findings(hidden))


def test_one_rank_on_a_host_of_four_gpus_is_only_a_warning() -> None:
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


def test_what_is_slow_on_cpus_is_only_a_warning() -> None:
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
def test_a_cpu_in_place_of_a_gpu_is_an_error_with_the_fix(versions: dict[str, str | None], fix: str) -> None:
    found = only(findings(with_rank(cluster(1, 1), 0, device="cpu", dtype="float32", num_visible_gpus=0, versions=versions)))
    assert "runs on the CPU though its host has GPUs" in found.text
    assert fix in found.text


def test_ranks_that_did_not_answer_are_named_also_without_their_facts() -> None:
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
    assert any("HSA_OVERRIDE_GFX_VERSION presents the GPU as another" in text for text in texts)
