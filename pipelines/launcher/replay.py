"""Replays: ranks answer some queries again after the clock has stopped; worker/replayer.py is a rank's part.

metrics/validity/repeats/ judges the answers.

A rank answers timed queries once more, one at a time, some of them another rank's: answers that differ from the timed ones mean that
the work depends on being timed, or on the rank. Each is paired with a new query of the same amount of work: where new ones take far
longer, repeated ones come out of a cache. The same is done with one query several times at once and as many new ones, since queries run
beside each other while the clock does. And after an answer nothing may be left to compute.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from pipelines.base import Response
from pipelines.launcher.messages import Again, Answer, Replay, Replayed
from workloads.records import Query, Record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

REPLAY, FRESH = -5, -6  # in the place of a sample's index when a seed is drawn
LAST_PART = 0.1  # of the timed queries: one of each rank's replays at least is from there
CACHE_FACTOR = 3.0  # a new query may take so many times as long as a repeated one
TOO_SHORT_S = 0.02  # shorter answers are not judged: the machine's own noise is as large
SURE_PAIRS = 10  # as many pairs where the first few look like a cache
TOGETHER = 8  # as many queries at the same time
MAX_BUSY_S = 3.0  # for so long it is watched whether a rank rests


def plan(records: Iterable[Record], ranks: Sequence[int], count: int, in_batches: bool = False) -> dict[int, list[Again]]:
    """What each rank is to answer again, `count` at most: where there are others, half of it their answers, which come first.

    records: in random order. Of a rank's own queries, and of others', one is from the last tenth of the test; the rest of them are
    spread evenly over what came before.
    in_batches: each query in the batch that it was answered in.
    """
    records = list(records)
    batches: dict[tuple[int, float | None], list[Query]] = {}
    if in_batches:
        for record in sorted(records, key=lambda r: r.query_id):
            batches.setdefault((record.rank, record.started_s), []).append(query_of(record))
    done = [r for r in records if r.status == "done"]
    in_order = sorted(done, key=lambda r: (r.issued_s if r.started_s is None else r.started_s, r.query_id))
    places = {r.query_id: (i + 0.5) / len(in_order) for i, r in enumerate(in_order)}
    own_count = count if len(ranks) == 1 else count // 2
    given: dict[int, list[Again]] = {rank: [] for rank in ranks}
    used: set[int] = set()
    for own, number in ((True, own_count), (False, count - own_count)):
        for begin, end in _parts(number):
            for rank in ranks:
                fitting = (r for r in done if (r.rank == rank) == own and r.query_id not in used)
                if (chosen := _first_in(fitting, places, begin, end)) is not None:
                    used.add(chosen.query_id)
                    batch = batches.get((chosen.rank, chosen.started_s), [])
                    given[rank].append(Again(query_of(chosen), chosen.rank, chosen.digest, batch))
    return {rank: sorted(repeated, key=lambda again: again.rank == rank) for rank, repeated in given.items()}


def _parts(number: int) -> list[tuple[float, float]]:
    """So many parts of a test, as shares of its length: the last tenth, and equal ones before it."""
    edges = [(1 - LAST_PART) * i / max(number - 1, 1) for i in range(number)]
    return [(1 - LAST_PART, 1.0), *itertools.pairwise(edges)] if number else []


def _first_in(records: Iterable[Record], places: Mapping[int, float], begin: float, end: float) -> Record | None:
    """The first record of that part; of a short test, the nearest one outside."""
    nearest, off = None, math.inf
    for record in records:
        away = max(begin - places[record.query_id], places[record.query_id] - end, 0.0)
        if away < off:
            nearest, off = record, away
        if away == 0.0:
            break
    return nearest


def query_of(record: Record) -> Query:
    return Query(record.query_id, record.sample_index, record.seed)


def digest_of(response: Response) -> str:
    """SHA-256 of the answer's pixels or text, first 16 hex digits."""
    return digest_of_text(response.text or "") if response.video_THWC is None else digest_of_pixels(response.video_THWC)


def digest_of_pixels(video_THWC: NDArray[np.uint8]) -> str:
    return hashlib.sha256(video_THWC.tobytes()).hexdigest()[:16]


def digest_of_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Replays:
    """The conductor's side: which ranks still replay, and what they answered."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.backlog_s: dict[int, float] = {}
        self._since: dict[int, float] = {}  # by rank that still replays

    @property
    def running(self) -> bool:
        return bool(self._since)

    def start(self, plan: Mapping[int, Sequence[Again]], next_id: int, max_s: float) -> Iterator[tuple[int, Replay]]:
        """What each rank is to be sent."""
        for rank, queries in plan.items():
            self._since[rank] = time.perf_counter()
            yield rank, Replay(list(queries), next_id, max_s)

    def take(self, replayed: Replayed) -> None:
        self.answers += replayed.answers
        if replayed.backlog_s is not None:
            self.backlog_s[replayed.rank] = replayed.backlog_s
        if replayed.over:
            self._since.pop(replayed.rank, None)

    def busy(self) -> dict[int, tuple[str, float]]:
        """Each rank that still replays, with what it works on and for how many seconds."""
        now = time.perf_counter()
        return {rank: ("the replay of timed queries", now - since) for rank, since in self._since.items()}


def looks_cached(answers: Iterable[Answer], kinds: Sequence[str] = ("again", "fresh")) -> bool:
    """Whether fresh answers took far longer than repeated ones, in all and by their length: a cache, or chance if they are few."""
    answered = [a for a in answers if a.error is None and a.answer_s is not None]
    again, fresh = ([a for a in answered if a.kind == kind] for kind in kinds)
    if not again or not fresh:
        return False
    whole = _median_s(fresh) > max(CACHE_FACTOR * _median_s(again), _median_s(again) + TOO_SHORT_S)
    return whole and _median_s(fresh, True) > CACHE_FACTOR * _median_s(again, True)


def _median_s(answers: Sequence[Answer], by_length: bool = False) -> float:
    return statistics.median((a.answer_s or 0.0) / (max(a.num_units, 1) if by_length else 1) for a in answers)
