"""Which ranks measure together, and when."""

from __future__ import annotations

from itertools import combinations

from pipelines.doctor.schedule import groups, rounds


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
