"""Who is given which query, without sockets."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from pipelines.distributed.dispatch import PullDispatch, PushDispatch, ReplicaState


@dataclass
class Item:
    sample_index: int
    expected: float = 0.0


def replica(rank: int, capacity: int = 4, rate: float = 1.0, streams: bool = False) -> ReplicaState:
    return ReplicaState(rank, capacity, rate, streams)


def make_items(count: int) -> list[Item]:
    return [Item(i) for i in range(count)]


def shares(dispatch: PullDispatch | PushDispatch, now: float = 0.0) -> dict[int, int]:
    return {rank: len(items) for rank, items in dispatch.assign(now)}


def test_far_from_the_end_everyone_is_given_what_it_has_room_for() -> None:
    pull = PullDispatch()
    for rank in range(3):
        pull.join(replica(rank))
    pull.add(make_items(100))
    assert shares(pull) == {0: 4, 1: 4, 2: 4}
    assert shares(pull) == {}


def test_a_batch_is_closed_once_begun_and_a_stream_is_not() -> None:
    for streams, further in ((False, {}), (True, {0: 1})):
        pull = PullDispatch()
        pull.join(replica(0, streams=streams))
        pull.add(make_items(9))
        [(_, items)] = pull.assign(0.0)
        pull.finished(0, [(items[0], 1)], 1.0)
        assert shares(pull, 1.0) == further


def test_towards_the_end_portions_shrink_to_what_ends_with_the_others() -> None:
    pull = PullDispatch()
    pull.join(replica(0, rate=3.0))
    pull.join(replica(1, rate=1.0))
    pull.add(make_items(4))
    assert shares(pull) == {0: 3, 1: 1}


def test_a_slow_replica_leaves_the_last_query_to_a_faster_one() -> None:
    pull = PullDispatch()
    pull.join(replica(0, capacity=1, rate=10.0))
    pull.join(replica(1, capacity=1, rate=0.5))
    pull.add(make_items(3))
    assert shares(pull) == {0: 1}  # two more take the fast one 0.2 s, the slow one 2 s each


def test_a_replica_that_stands_still_is_not_waited_for() -> None:
    pull = PullDispatch()
    pull.join(replica(0, capacity=1, rate=10.0))
    pull.join(replica(1, capacity=1, rate=0.5))
    pull.add(make_items(3))
    assert shares(pull) == {0: 1}
    assert shares(pull, now=0.5) == {1: 1}  # the fast one should have been back long ago


def test_a_rate_is_learnt_from_what_batches_take() -> None:
    pull = PullDispatch()
    slow = replica(0, rate=100.0)
    pull.join(slow)
    pull.add(make_items(40))
    for now in (0.0, 4.0, 8.0, 12.0, 16.0, 20.0):
        [(_, items)] = pull.assign(now)
        pull.finished(0, [(item, 1) for item in items], now + 4.0)
    assert slow.rate == pytest.approx(1 + 99 / 2**6)  # six times half way from 100 to 1


def pushed(policy: str, count: int = 3, capacity: int = 8) -> PushDispatch:
    push = PushDispatch(policy)
    for rank in range(count):
        push.join(replica(rank, capacity, streams=True))
    return push


def test_round_robin_takes_turns_whatever_is_outstanding() -> None:
    push = pushed("round_robin")
    order = []
    for item in make_items(7):
        push.add([item])
        [(rank, _)] = push.assign(0.0)
        order.append(rank)
        if rank == 2:
            push.finished(rank, [(item, 5)], 0.0)
    assert order == [0, 1, 2, 0, 1, 2, 0]


def test_the_shortest_queue_is_joined() -> None:
    push = pushed("shortest_queue")
    first = make_items(6)
    push.add(first)
    given = dict(push.assign(0.0))
    assert {rank: len(items) for rank, items in given.items()} == {0: 2, 1: 2, 2: 2}
    push.finished(1, [(item, 5) for item in given[1]], 1.0)
    push.add(make_items(2))
    assert shares(push) == {1: 2}


def test_the_fewest_tokens_outstanding_decide_by_lengths_learnt() -> None:
    push = pushed("least_tokens", count=2)
    for index, tokens in ((0, 900), (1, 100)):  # learn two samples' lengths
        push.add([item := Item(index)])
        [(rank, _)] = push.assign(0.0)
        push.finished(rank, [(item, tokens)], 0.0)
    push.add([Item(0)])
    [(long, _)] = push.assign(0.0)
    push.add([Item(1) for _ in range(5)])
    assert shares(push) == {1 - long: 5}  # 5 x 100 tokens are fewer than 900


def test_a_length_that_is_not_known_is_taken_for_the_mean() -> None:
    push = pushed("least_tokens", count=1)
    expected = []
    for index, tokens in ((0, 900), (1, 100), (2, 200), (1, 100), (3, 1)):
        push.add([item := Item(index)])
        push.assign(0.0)
        expected.append(item.expected)
        push.finished(0, [(item, tokens)], 0.0)
    assert expected == pytest.approx([1.0, 900.0, 500.0, 100.0, 325.0])


def test_with_no_room_anywhere_queries_wait_for_the_first_that_has() -> None:
    push = pushed("least_tokens", count=2, capacity=1)
    push.add(make_items(3))
    given = dict(push.assign(0.0))
    assert len(push.waiting) == 1
    push.finished(1, [(given[1][0], 10)], 0.0)
    assert shares(push) == {1: 1}


def test_what_works_in_batches_is_given_a_batch() -> None:
    push = PushDispatch("shortest_queue")
    push.join(replica(0, capacity=4))
    push.add(make_items(6))
    assert shares(push) == {0: 4}
    assert shares(push) == {}
