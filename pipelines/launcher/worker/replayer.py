"""A rank's part in replays: it answers timed queries again, and fresh ones, after the clock has stopped. See launcher/replay.py."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from pipelines.base import Pipeline, Response, StreamingPipeline
from pipelines.launcher.messages import Again, Answer, Replay
from pipelines.launcher.replay import FRESH, MAX_BUSY_S, SURE_PAIRS, TOGETHER, digest_of, looks_cached
from pipelines.launcher.worker.fresh_prompts import FreshPrompts
from workloads.records import Query, Sample, query_seed

if TYPE_CHECKING:
    import torch

SLICE_S, QUIET_SLICES, BUSY_SHARE = 0.02, 3, 0.1  # quiet: so many slices in a row with less than that share of a CPU
TRIES = 3  # of several queries at the same time
BUSY_LOOKS = 3  # in so many pairs it is measured whether the rank rests after the timed query


class FirstToken(NamedTuple):
    """at: on this process's clock."""

    token_id: int
    at: float


class _Made(NamedTuple):
    """What the pipeline made of queries. began: on this process's clock; seconds: until all were answered."""

    queries: Sequence[Query]
    responses: Sequence[Response]
    firsts: Mapping[int, FirstToken]
    began: float
    seconds: float


class Replayer:
    """One rank's part.

    generate: have the pipeline answer a batch; its answers, and the first tokens by query, as events announced them.
    keep: write an answer's video under that path of the run folder. has_videos: whether answers are videos.
    """

    def __init__(
        self,
        rank: int,
        pipeline: Pipeline,
        samples: Sequence[Sample],
        device: torch.device,
        generate: Callable[[Sequence[Sample], Sequence[Query]], tuple[Sequence[Response], Mapping[int, FirstToken]]],
        keep: Callable[[str, Response], None],
        has_videos: bool,
    ) -> None:
        self._rank, self._pipeline, self._samples, self._device = rank, pipeline, samples, device
        self._generate, self._keep, self._has_videos = generate, keep, has_videos
        self._fresh_prompts = FreshPrompts(samples)
        self._next_id = 0

    def answers(self, replay: Replay) -> Iterator[list[Answer]]:
        """Pairs of a timed query once more and a fresh one. More of them where the first ones look like a cache."""
        self._next_id, until = replay.next_id, time.perf_counter() + replay.max_s
        given: list[Answer] = []
        number = 0
        while replay.queries:
            done = number >= len(replay.queries) or (number > 0 and time.perf_counter() > until)
            if done and (number >= SURE_PAIRS or not looks_cached(given)):
                break
            answers = self._pair(replay.queries[number % len(replay.queries)], number)
            given += answers
            number += 1
            yield answers
        slowest_s = max((a.answer_s or 0.0 for a in given), default=math.inf)
        if time.perf_counter() + 2 * slowest_s < until and not looks_cached(given):  # else it is known already
            yield from self._together(replay.queries)

    def warm_up(self, query: Query, response: Response) -> Answer:
        """An answer from before the clock started, as an Answer of the replay."""
        media = None if response.video_THWC is None else f"media/warm-up-{self._rank:04d}-{query.id:04d}.mkv"
        if media:
            self._keep(media, response)
        return msgspec.structs.replace(self._answer("warm-up", query, response), media=media)

    def _pair(self, timed: Again, number: int) -> list[Answer]:
        """In every other pair the fresh query comes first, so that neither always follows the other."""
        ways = [self._again, self._fresh]
        pair = [way(timed, number) for way in (ways if number % 2 == 0 else ways[::-1])]
        return [answer for answer in pair if answer is not None]

    def _together(self, timed: Sequence[Again]) -> Iterator[list[Answer]]:
        """Pairs of one timed query several times at once and as many fresh ones at once; more than one where that looks like a cache."""
        size, kinds = min(self._pipeline.batch_size, TOGETHER), ("again-together", "fresh-together")
        if size == 1 or any(one.batch for one in timed) or self._followers_need_prompts:
            return
        given: list[Answer] = []
        for number in range(SURE_PAIRS):
            pair = [self._all_of(kind, timed[number % len(timed)], size, number) for kind in kinds[:: -1 if number % 2 else 1]]
            given += pair
            yield pair
            failed = any(answer.error is not None for answer in pair)  # some fresh prompts cannot be answered
            if not looks_cached(given, kinds) and not (failed and number + 1 < TRIES):
                return

    def _all_of(self, kind: str, timed: Again, size: int, number: int) -> Answer:
        """One Answer for all: the same query so many times, or as many different fresh ones."""
        query = timed.query
        samples, queries = [self._samples[query.sample_index]] * size, [query] * size
        if kind == "fresh-together":
            turns = [FRESH - SURE_PAIRS - size * number - i for i in range(1, size + 1)]
            queries = [Query(query.id, query.sample_index, query_seed(query.seed, turn)) for turn in turns]
            if not self._has_videos:
                samples = [self._fresh_prompts.altered(s, q.seed) for s, q in zip(samples, queries, strict=True)]
        made = self._make(samples, queries)
        error = next((r.error for r in made.responses if r.error is not None), None)
        num_units = sum(r.num_units for r in made.responses)
        return Answer(
            kind,  # type: ignore[arg-type]
            self._rank,
            query.id,
            query.sample_index,
            query.seed,
            answer_s=made.seconds,
            num_units=num_units,
            error=error,
        )

    def _again(self, timed: Again, number: int) -> Answer:
        answer, response = self._timed("again", timed, [self._samples[q.sample_index] for q in _batch(timed)], 0)
        if self._pipeline.rests and number < BUSY_LOOKS:
            answer = msgspec.structs.replace(answer, busy_s=busy_s(self._device))
        return self._kept(answer, response) if answer.digest != timed.digest else answer

    def _fresh(self, timed: Again, number: int) -> Answer | None:
        """The same prompt with another seed; where the answer is a text, another prompt.

        None where that is impossible: followers have the data set's prompts alone.
        """
        samples, turn = [self._samples[q.sample_index] for q in _batch(timed)], FRESH - number
        if self._has_videos:
            return self._kept(*self._timed("fresh", timed, samples, turn))
        if self._followers_need_prompts:
            return None
        samples = [self._fresh_prompts.altered(s, query_seed(q.seed, turn)) for s, q in zip(samples, _batch(timed), strict=True)]
        answer, _ = self._timed("fresh", timed, samples, turn)
        return msgspec.structs.replace(answer, prompt=samples[_place(timed)].prompt)

    @property
    def _followers_need_prompts(self) -> bool:
        """Whether other ranks of a replica work on the same answer: those have the data set's prompts alone."""
        return not self._has_videos and self._pipeline.replica.size > 1 and not isinstance(self._pipeline, StreamingPipeline)

    def _kept(self, answer: Answer, response: Response) -> Answer:
        """With its video in a file: the canaries examine it."""
        if response.video_THWC is None or response.error is not None:
            return answer
        media = f"media/replay-{self._rank:04d}-{self._next_id:06d}.mkv"
        self._keep(media, response)
        return msgspec.structs.replace(answer, media=media)

    def _timed(self, kind: str, timed: Again, samples: Sequence[Sample], turn: int) -> tuple[Answer, Response]:
        """turn: from which new seeds are drawn; 0 for those of the timed queries."""
        seeds = [query_seed(q.seed, turn) if turn else q.seed for q in _batch(timed)]
        made = self._make(samples, [Query(q.id, q.sample_index, seed) for q, seed in zip(_batch(timed), seeds, strict=True)])
        query, response = made.queries[_place(timed)], made.responses[_place(timed)]
        answer = self._answer(kind, Query(timed.query.id, query.sample_index, query.seed), response)
        answer = msgspec.structs.replace(answer, timed_rank=timed.rank, answer_s=made.seconds)
        if (first := made.firsts.get(query.id)) is not None:
            answer = msgspec.structs.replace(answer, announced=first.token_id, first_token_s=first.at - made.began)
        return answer, response

    def _make(self, samples: Sequence[Sample], queries: Sequence[Query]) -> _Made:
        """Have the queries answered at once, under new numbers."""
        queries = [Query(self._next_id + i, q.sample_index, q.seed) for i, q in enumerate(queries)]
        self._next_id += len(queries)
        began = time.perf_counter()
        responses, firsts = self._generate(samples, queries)
        return _Made(queries, responses, firsts, began, time.perf_counter() - began)

    def _answer(self, kind: str, query: Query, response: Response) -> Answer:
        return Answer(
            kind,  # type: ignore[arg-type]
            self._rank,
            query.id,
            query.sample_index,
            query.seed,
            num_units=response.num_units,
            num_steps=len(response.step_s),
            first_token_id=response.first_token_id,
            digest=digest_of(response),
            text=response.text,
            error=response.error,
            finish_reason=response.finish_reason,
            finite=response.finite,
            token_gap_s=[round(s, 6) for s in response.token_gap_s],
        )


def _batch(timed: Again) -> Sequence[Query]:
    """The query alone, or the batch that it has to be in."""
    return timed.batch or [timed.query]


def _place(timed: Again) -> int:
    """Of the query in its batch."""
    return next(i for i, q in enumerate(_batch(timed)) if q.id == timed.query.id)


def busy_s(device: torch.device) -> float:
    """How long the device and this process's other threads go on working; MAX_BUSY_S at most."""
    import torch

    began = time.perf_counter()
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    last_busy, quiet = time.perf_counter(), 0
    if last_busy - began < SLICE_S:
        last_busy = began
    while quiet < QUIET_SLICES and last_busy - began < MAX_BUSY_S:
        used_s, since = time.process_time() - time.thread_time(), time.perf_counter()
        time.sleep(SLICE_S)
        now = time.perf_counter()
        if time.process_time() - time.thread_time() - used_s > BUSY_SHARE * (now - since):
            last_busy, quiet = now, 0
        else:
            quiet += 1
    return round(last_busy - began, 4)
