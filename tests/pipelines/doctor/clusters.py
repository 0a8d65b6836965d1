"""Examinations of clusters made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pipelines.doctor.examination import (
    Collective,
    Examination,
    Finding,
    Pair,
    RankFacts,
)
from pipelines.doctor.schedule import groups, rounds


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
