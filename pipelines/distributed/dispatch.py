"""Dispatch: which replica gets which query. Pure bookkeeping, without sockets or clocks of its own.

  PullDispatch   all other scenarios: replicas are given what they have room for. Towards the end of the queue the portions
                 shrink to what each can finish by the time all are done, so that a slow replica does not keep the rest waiting
  PushDispatch   server and interactive: every query goes to a replica at once, chosen by a policy, as long as one has room

Policies: `least_tokens` (the fewest tokens outstanding, prompts and answers; the tokens of an answer are estimated from earlier
answers to the same sample, else from all), `shortest_queue` (the fewest queries outstanding), `round_robin`.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec

OVERDUE = 2.0  # a replica that takes so many times as long as its rate predicts is left out of the estimate
SMOOTHING = 0.5  # weight of the latest batch in a replica's rate


class Item(Protocol):
    """A query as far as dispatch is concerned. expected: tokens that it was expected to cost when it was assigned."""

    sample_index: int
    expected: float


class ReplicaState(msgspec.Struct, gc=False):
    """What is known of a replica. capacity: queries it may have at a time. rate: samples a second. cost: tokens outstanding."""

    rank: int
    capacity: int
    rate: float
    streams: bool
    in_flight: int = 0
    began: float = 0.0  # when it was last given something while it had nothing
    given: int = 0  # how many queries, then and since
    cost: float = 0.0
    turn: int = 0  # when it was last chosen
    version: int = 0  # of its entry in the heap

    @property
    def room(self) -> int:
        """How many more queries it can take: a batch is closed once begun, streams take queries as others leave."""
        return self.capacity - self.in_flight if self.streams or not self.in_flight else 0


Assignment = tuple[int, list[Item]]  # rank, and its new queries


class PullDispatch:
    """One queue; replicas take what they have room for. See the module."""

    def __init__(self) -> None:
        self.waiting: deque[Item] = deque()
        self._replicas: dict[int, ReplicaState] = {}
        self._free: dict[int, ReplicaState] = {}  # those with room
        self._rate = 0.0  # of all together

    def join(self, replica: ReplicaState) -> None:
        self._replicas[replica.rank] = self._free[replica.rank] = replica
        self._rate += replica.rate

    def add(self, items: Sequence[Item]) -> None:
        self.waiting.extend(items)

    def assign(self, now: float) -> list[Assignment]:
        """New queries for whoever has room; the fastest replicas choose first."""
        if not self.waiting:
            return []
        assignments = []
        pace: _Pace | None = None  # of this call; only the end of the queue needs it
        for replica in sorted(self._free.values(), key=lambda r: -r.rate):
            count = min(replica.room, len(self.waiting))
            if count and replica.rate * len(self.waiting) < self._rate * (count + replica.in_flight):  # the end is near
                pace = pace or _Pace(self._replicas.values(), now)
                count = self._portion(replica, count, pace)
            if count <= 0:
                continue
            items = [self.waiting.popleft() for _ in range(count)]
            if pace:
                pace.leave_out(replica)
            if not replica.in_flight:
                replica.began, replica.given = now, 0
            replica.in_flight += count
            replica.given += count
            if pace:
                pace.take_in(replica)
            if not replica.room:
                del self._free[replica.rank]
            assignments.append((replica.rank, items))
        return assignments

    def finished(self, rank: int, items: Sequence[tuple[Item, int]], now: float) -> None:
        """items: with the tokens of each, prompt and answer."""
        replica = self._replicas[rank]
        replica.in_flight -= len(items)
        if replica.room:
            self._free[rank] = replica
        if not replica.in_flight and not replica.streams and now > replica.began:
            change = SMOOTHING * (replica.given / (now - replica.began) - replica.rate)
            replica.rate += change
            self._rate += change

    def _portion(self, replica: ReplicaState, room: int, pace: _Pace) -> int:
        """Towards the end: what the replica can do by the time at which all could be done, of the `room` it has."""
        pace.leave_out(replica)
        try:
            if not pace.rates:
                return room
            left = len(self.waiting) + replica.in_flight + pace.left
            time_left = left / (replica.rate + pace.rate)
            share = int(replica.rate * time_left) - replica.in_flight
            if share >= 1 or replica.in_flight:
                return max(0, min(room, share))
            return int(1 / replica.rate <= time_left + 1 / pace.fastest)  # else another replica finishes it sooner
        finally:
            pace.take_in(replica)


class _Pace:
    """What replicas that are not overdue still have to do, and how fast, at one moment.

    left: queries. rate: of all of them. rates: of each. One look at all replicas in a call, not one for each replica that has room: with
    1,024 of them that took longer than their work.
    """

    def __init__(self, replicas: Iterable[ReplicaState], now: float) -> None:
        self._now, self.left, self.rate = now, 0.0, 0.0
        self.rates: dict[int, float] = {}
        ordered = sorted(replicas, key=lambda r: -r.rate)
        self._order = [replica.rank for replica in ordered]
        for replica in ordered:
            self.take_in(replica)

    @property
    def fastest(self) -> float:
        """The highest of the rates."""
        return next(self.rates[rank] for rank in self._order if rank in self.rates)

    def take_in(self, replica: ReplicaState) -> None:
        if not _is_overdue(replica, self._now):
            self.left += _left(replica, self._now)
            self.rate += replica.rate
            self.rates[replica.rank] = replica.rate

    def leave_out(self, replica: ReplicaState) -> None:
        """Call before the replica's state changes."""
        if self.rates.pop(replica.rank, None) is not None:
            self.left -= _left(replica, self._now)
            self.rate -= replica.rate


def _left(replica: ReplicaState, now: float) -> float:
    """How many of its queries are probably not answered yet."""
    if replica.streams:
        return float(replica.in_flight)
    return max(0.0, replica.in_flight - (now - replica.began) * replica.rate)


def _is_overdue(replica: ReplicaState, now: float) -> bool:
    return not replica.streams and replica.in_flight > 0 and (now - replica.began) * replica.rate > OVERDUE * replica.in_flight


class PushDispatch:
    """Every query goes to a replica at once where one has room; else it waits for the first that has."""

    def __init__(self, policy: str) -> None:
        self.waiting: deque[Item] = deque()
        self._policy = policy
        self._replicas: dict[int, ReplicaState] = {}
        self._heap: list[tuple[float, int, int, ReplicaState]] = []  # what the policy minimises, turn, version
        self._lengths: dict[int, float] = {}  # tokens by sample, as far as they are known
        self._mean, self._known = 1.0, 0
        self._turn = 0

    def join(self, replica: ReplicaState) -> None:
        self._replicas[replica.rank] = replica
        replica.turn = len(self._replicas) - (1 << 20)  # before any that was chosen
        self._enter(replica)

    def add(self, items: Sequence[Item]) -> None:
        self.waiting.extend(items)

    def assign(self, now: float) -> list[Assignment]:
        portions: dict[int, list[Item]] = {}
        waiting, heap, expected, mean = self.waiting, self._heap, self._lengths.get, self._mean
        while waiting and heap:
            _, _, version, replica = heap[0]
            if version != replica.version:
                heapq.heappop(heap)
                continue
            count = 1 if replica.streams else min(replica.room, len(waiting))  # what works in batches is given a batch
            items = portions.setdefault(replica.rank, [])
            for _ in range(count):
                item = waiting.popleft()
                item.expected = expected(item.sample_index, mean)
                replica.cost += item.expected
                items.append(item)
            replica.in_flight += count
            self._turn += 1
            replica.turn = self._turn
            replica.version += 1
            if replica.room > 0:
                heapq.heapreplace(heap, (self._standing(replica), replica.turn, replica.version, replica))  # one step for pop and push
            else:
                heapq.heappop(heap)
        return list(portions.items())

    def finished(self, rank: int, items: Sequence[tuple[Item, int]], now: float) -> None:
        """items: with the tokens of each, prompt and answer."""
        replica = self._replicas[rank]
        lengths, known, mean, cost = self._lengths, self._known, self._mean, replica.cost
        for item, num_tokens in items:
            cost -= item.expected
            lengths[item.sample_index] = num_tokens
            known += 1
            mean += (num_tokens - mean) / known
        self._known, self._mean, replica.cost = known, mean, cost
        replica.in_flight -= len(items)
        self._enter(replica)

    def _enter(self, replica: ReplicaState) -> None:
        """Put its present standing into the heap; earlier entries of it are void."""
        replica.version += 1
        if replica.room > 0:
            heapq.heappush(self._heap, (self._standing(replica), replica.turn, replica.version, replica))

    def _standing(self, replica: ReplicaState) -> float:
        """What the policy minimises."""
        return replica.cost if self._policy == "least_tokens" else replica.in_flight if self._policy == "shortest_queue" else 0.0
