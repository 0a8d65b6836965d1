"""Which ranks are measured together: groups for collectives, rounds of disjoint pairs for messages.

Every pair of ranks on one host is measured, all hosts at a time. Between hosts, up to EVERY_PAIR ranks in all, every pair is;
beyond that only ranks of the same place on their hosts, in at most MAX_ROUNDS rounds, each host with a different one in every
round. So 12 hosts of 8 GPUs take 7 rounds on their hosts and 11 between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

EVERY_PAIR, MAX_ROUNDS = 16, 16


class Group(NamedTuple):
    """Ranks of one collective. scope: all, intra-node (one host) or inter-node (one rank a host)."""

    scope: str
    ranks: list[int]


class Round(NamedTuple):
    """Pairs that share no rank and are measured at the same time."""

    scope: str
    pairs: list[tuple[int, int]]


def groups(hosts: Sequence[str]) -> list[list[Group]]:
    """Groups by rounds; those of one round share no rank. hosts: of every rank, in order."""
    by_host = _by_host(hosts)
    stages = [[Group("all", list(range(len(hosts))))]]
    if len(by_host) > 1:
        stages.append([Group("intra-node", ranks) for ranks in by_host if len(ranks) > 1])
        places = [[ranks[i] for ranks in by_host if i < len(ranks)] for i in range(max(map(len, by_host)))]
        stages.append([Group("inter-node", ranks) for ranks in places if len(ranks) > 1])
    return [several for several in stages if several and len(several[0].ranks) > 1]


def rounds(hosts: Sequence[str]) -> list[Round]:
    """Rounds of pairs, those on one host first. hosts: of every rank, in order."""
    by_host = _by_host(hosts)
    places = max(map(len, by_host))
    within = []
    for together in _tournament(places):
        within.append(Round("intra-node", [(ranks[a], ranks[b]) for ranks in by_host for a, b in together if b < len(ranks)]))
    between = []
    few = len(hosts) <= EVERY_PAIR
    for shift in range(places if few else 1):
        for together in _tournament(len(by_host)):
            sides = [(by_host[a], by_host[b]) for a, b in together]
            pairs = [(rank, other[j]) for one, other in sides for i, rank in enumerate(one) if (j := (i + shift) % places) < len(other)]
            between.append(Round("inter-node", pairs))
    return [r for r in within + (between if few else between[:MAX_ROUNDS]) if r.pairs]


def _by_host(hosts: Sequence[str]) -> list[list[int]]:
    by_host: dict[str, list[int]] = {}
    for rank, host in enumerate(hosts):
        by_host.setdefault(host, []).append(rank)
    return list(by_host.values())


def _tournament(count: int) -> list[list[tuple[int, int]]]:
    """All pairs in as few rounds as possible (the circle method); lower number first."""
    seats: list[int] = list(range(count + count % 2))
    turns = []
    for _ in range(len(seats) - 1):
        half = len(seats) // 2
        pairs = [(min(a, b), max(a, b)) for a, b in zip(seats[:half], reversed(seats[half:]), strict=True)]
        turns.append([pair for pair in pairs if pair[1] < count])
        seats = [seats[0], seats[-1], *seats[1:-1]]
    return turns
