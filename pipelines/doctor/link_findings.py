"""What is wrong with the links between devices."""

from __future__ import annotations

from collections import Counter
from statistics import median

from pipelines.doctor.examination import Collective, Examination, Finding, Pair, grouped, most_common
from pipelines.doctor.phrases import below, rate, who

# A link under these shares of the median of its class is reported. Pairs of one class may differ in their number of lanes.
SLOW_PAIR, SLOW_GROUP = 0.5, 0.8
MAX_PAIRS_NAMED = 8


def wrong_values(examination: Examination) -> list[Finding]:
    """Messages that did not arrive as they were sent."""
    measured: list[Collective | Pair] = [*examination.pairs, *examination.collectives]
    return [
        Finding(
            "error",
            f"{_kind(x)} among {who(examination, x.ranks)} gave wrong values; results that pass over it cannot be trusted",
            list(x.ranks),
        )
        for x in measured
        if not x.correct
    ]


def slow_pairs(examination: Examination) -> list[Finding]:
    """Pairs far below the median of their class; a rank that is slow in most of its pairs is reported instead of them."""
    findings = []
    for like in grouped(examination.pairs, lambda p: p.scope):
        usual = median(p.bandwidth for p in like)
        slow = [p for p in like if p.bandwidth < SLOW_PAIR * usual]
        total, bad = (Counter(rank for p in pairs for rank in p.ranks) for pairs in (like, slow))
        culprits = [rank for rank, count in bad.items() if count > 1 and count > total[rank] / 2]
        for rank in culprits:
            worst = min(p.bandwidth for p in slow if rank in p.ranks)
            text = (
                f"{who(examination, [rank])} has slow links: {bad[rank]} of its {total[rank]} {like[0].scope} pairs are more than "
                f"{1 - SLOW_PAIR:.0%} below the median of {rate(usual)}, the worst at {rate(worst)}; {_link_fix(like[0].scope)}"
            )
            findings.append(Finding(examination.slow_level, text, [rank]))
        rest = [p for p in slow if not set(p.ranks) & set(culprits)]
        for p in sorted(rest, key=lambda p: p.bandwidth)[:MAX_PAIRS_NAMED]:
            text = (
                f"the link between {who(examination, p.ranks)} is slow: {rate(p.bandwidth)}, {below(p.bandwidth, usual)} the median "
                f"of {len(like)} {p.scope} pairs ({rate(usual)}); {_link_fix(p.scope)}"
            )
            findings.append(Finding(examination.slow_level, text, list(p.ranks)))
        if len(rest) > MAX_PAIRS_NAMED:
            text = f"{len(rest) - MAX_PAIRS_NAMED} more {like[0].scope} pairs are as slow; see the file"
            findings.append(Finding(examination.slow_level, text))
    return findings


def slow_groups(examination: Examination) -> list[Finding]:
    """Hosts, or ranks of one place on theirs, whose collectives are slower than those of the others."""
    findings = []
    for like in grouped(examination.collectives, lambda c: (c.scope, c.operation, len(c.ranks))):
        usual = median(c.bus_bandwidth for c in like)
        for c in like:
            if c.bus_bandwidth < SLOW_GROUP * usual:
                text = (
                    f"{c.operation} among {who(examination, c.ranks)} is slow: {rate(c.bus_bandwidth)}, "
                    f"{below(c.bus_bandwidth, usual)} the median of {len(like)} such groups ({rate(usual)}); {_link_fix(c.scope)}"
                )
                findings.append(Finding(examination.slow_level, text, c.ranks))
    return findings


def odd_links(examination: Examination) -> list[Finding]:
    """GPUs joined by another kind of link than most on their host are."""
    findings = []
    for host, ranks in examination.hosts().items():
        links = next((r.topology.links for r in ranks if r.topology), [])
        usual = most_common(link.kind for link in links) if links else ""
        for link in links:
            if link.kind != usual and usual == "XGMI":
                text = f"host {host}: GPUs {link.gpus[0]} and {link.gpus[1]} are joined by {link.kind} where most are by {usual}"
                findings.append(Finding("error", f"{text}; a link is down: look at amd-smi xgmi", []))
    return findings


def _kind(x: Collective | Pair) -> str:
    return x.operation if isinstance(x, Collective) else "a message"


def _link_fix(scope: str) -> str:
    if scope == "intra-node":
        return "look at the topology (amd-smi topology, nvidia-smi topo -m) and at NCCL_P2P_DISABLE"
    return "look at its network port and cable, at NCCL_IB_HCA and NCCL_SOCKET_IFNAME"
