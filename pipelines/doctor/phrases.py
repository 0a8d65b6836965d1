"""Phrases of findings: ranks with their devices and hosts, rates, lists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from pipelines.doctor.examination import Examination, RankFacts


def who(examination: Examination, ranks: Iterable[int]) -> str:
    """Ranks with their devices and hosts; only their number on each host where they are many."""
    wanted = set(ranks)
    known = [r for r in examination.ranks if r.rank in wanted]
    unknown = sorted(wanted - {r.rank for r in known})
    names = [name_of(r) for r in known] + [f"rank {rank}" for rank in unknown]
    if len(names) <= 4:
        return listed(names)
    hosts = [f"{count} on {host}" for host, count in Counter(r.host for r in known).items()]
    return f"{len(names)} ranks ({', '.join([*hosts, *map(str, unknown)])})"


def name_of(r: RankFacts) -> str:
    return f"rank {r.rank} ({r.device}{f' at {r.pci_bus}' if r.pci_bus else ''} on {r.host})"


def below(value: float, usual: float) -> str:
    return f"{1 - value / usual:.0%} below"


def rate(value: float) -> str:
    return f"{value / 1e9:.4g} GB/s"


def plural(noun: str, count: int) -> str:
    return noun if count == 1 else f"{noun}s"


def listed(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
