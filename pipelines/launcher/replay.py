"""Replays: ranks answer some queries again after the clock has stopped. metrics/validity/replays.py judges the answers.

A rank answers timed queries once more, one at a time, some of them another rank's: answers that differ from the timed ones mean that
the work depends on being timed, or on the rank. Each is paired with a new query of the same amount of work: where new ones take far
longer, repeated ones come out of a cache. And after an answer nothing may be left to compute.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from pipelines.base import Pipeline, Response, StreamingPipeline
from pipelines.launcher.messages import Again, Answer, Replay, Replayed
from workloads.records import Query, Record, Sample, query_seed

if TYPE_CHECKING:
    import torch

REPLAY, FRESH = -5, -6  # in the place of a sample's index when a seed is drawn
CACHE_FACTOR = 3.0  # a new query may take so many times as long as a repeated one
TOO_SHORT_S = 0.02  # shorter answers are not judged: the machine's own noise is as large
SURE_PAIRS = 10  # as many pairs where the first few look like a cache
SLICE_S, QUIET_SLICES, BUSY_SHARE = 0.02, 3, 0.1  # quiet: so many slices in a row with less than that share of a CPU
MAX_BUSY_S = 3.0
BUSY_LOOKS = 3  # in so many pairs it is measured whether the rank rests after the timed query


def plan(records: Iterable[Record], ranks: Sequence[int], count: int, in_batches: bool = False) -> dict[int, list[Again]]:
    """What each rank is to answer again, `count` at most: where there are others, half of it their answers, which come first.

    in_batches: each query in the batch that it was answered in.
    """
    batches: dict[tuple[int, float | None], list[Query]] = {}
    if in_batches:
        records = list(records)
        for record in sorted(records, key=lambda r: r.query_id):
            batches.setdefault((record.rank, record.started_s), []).append(query_of(record))
    given: dict[int, list[Again]] = {rank: [] for rank in ranks}
    room = {rank: {True: count if len(ranks) == 1 else count // 2, False: 0 if len(ranks) == 1 else -(-count // 2)} for rank in ranks}
    for record in records:
        if record.status == "done" and (needy := [r for r in ranks if room[r][r == record.rank]]):
            rank = min(needy, key=lambda r: len(given[r]))
            room[rank][rank == record.rank] -= 1
            batch = batches.get((record.rank, record.started_s), [])
            given[rank].append(Again(query_of(record), record.rank, record.digest, batch))
        if not any(left for both in room.values() for left in both.values()):
            break
    return {rank: sorted(queries, key=lambda again: again.rank == rank) for rank, queries in given.items()}


def query_of(record: Record) -> Query:
    return Query(record.query_id, record.sample_index, record.seed)


def digest_of(response: Response) -> str:
    """SHA-256 of the answer's pixels or text, first 16 hex digits."""
    content = response.video_THWC.tobytes() if response.video_THWC is not None else (response.text or "").encode()
    return hashlib.sha256(content).hexdigest()[:16]


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


class Replayer:
    """One rank's part.

    generate: have the pipeline answer a batch; its answers, and the first token's id of the last one as its event announced it.
    keep: write an answer's video under that path of the run folder. has_videos: whether answers are videos.
    """

    def __init__(
        self,
        rank: int,
        pipeline: Pipeline,
        samples: Sequence[Sample],
        device: torch.device,
        generate: Callable[[Sequence[Sample], Sequence[Query]], tuple[Sequence[Response], int | None]],
        keep: Callable[[str, Response], None],
        has_videos: bool,
    ) -> None:
        self._rank, self._pipeline, self._samples, self._device = rank, pipeline, samples, device
        self._generate, self._keep, self._has_videos = generate, keep, has_videos
        self._next_id = 0

    def answers(self, replay: Replay) -> Iterator[list[Answer]]:
        """Pairs of a timed query once more and a fresh one. More of them where the first ones look like a cache."""
        self._next_id, until = replay.next_id, time.perf_counter() + replay.max_s
        given: list[Answer] = []
        number = 0
        while replay.queries:
            done = number >= len(replay.queries) or (number > 0 and time.perf_counter() > until)
            if done and (number >= SURE_PAIRS or not looks_cached(given)):
                return
            answers = self._pair(replay.queries[number % len(replay.queries)], number)
            given += answers
            number += 1
            yield answers

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

    def _again(self, timed: Again, number: int) -> Answer:
        answer, response = self._timed("again", timed, [self._samples[q.sample_index] for q in _batch(timed)], 0)
        if self._pipeline.rests and number < BUSY_LOOKS:
            answer = msgspec.structs.replace(answer, busy_s=busy_s(self._device))
        if response.video_THWC is not None and answer.digest != timed.digest:
            answer = msgspec.structs.replace(answer, media=f"media/replay-{self._rank:04d}-{self._next_id:06d}.mkv")
            self._keep(str(answer.media), response)
        return answer

    def _fresh(self, timed: Again, number: int) -> Answer | None:
        """The same prompt with another seed; where the answer is a text, another prompt.

        None where that is impossible: followers have the data set's prompts alone.
        """
        samples, turn = [self._samples[q.sample_index] for q in _batch(timed)], FRESH - number
        if not self._has_videos:
            if self._pipeline.replica.size > 1 and not isinstance(self._pipeline, StreamingPipeline):
                return None
            samples = [altered(s, query_seed(q.seed, turn)) for s, q in zip(samples, _batch(timed), strict=True)]
        return self._timed("fresh", timed, samples, turn)[0]

    def _timed(self, kind: str, timed: Again, samples: Sequence[Sample], turn: int) -> tuple[Answer, Response]:
        """turn: from which new seeds are drawn; 0 for those of the timed queries."""
        queries = [
            Query(self._next_id + i, q.sample_index, query_seed(q.seed, turn) if turn else q.seed) for i, q in enumerate(_batch(timed))
        ]
        place = next(i for i, q in enumerate(_batch(timed)) if q.id == timed.query.id)
        self._next_id += len(queries)
        began = time.perf_counter()
        responses, announced = self._generate(samples, queries)
        seconds = time.perf_counter() - began
        answer = self._answer(kind, Query(timed.query.id, queries[place].sample_index, queries[place].seed), responses[place])
        return msgspec.structs.replace(answer, timed_rank=timed.rank, answer_s=seconds, announced=announced), responses[place]

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
        )


def _batch(timed: Again) -> Sequence[Query]:
    """The query alone, or the batch that it has to be in."""
    return timed.batch or [timed.query]


def altered(sample: Sample, seed: int) -> Sample:
    """The sample with two words of its prompt swapped; one with images keeps its prompt, and one pixel of each image changes."""
    rng = random.Random(seed)
    if sample.images:
        return dataclasses.replace(sample, images=tuple(_retouched(image, rng) for image in sample.images))
    words = sample.prompt.split(" ")
    for _ in range(20):
        i, j = rng.randrange(len(words)), rng.randrange(len(words))
        if words[i] != words[j]:
            words[i], words[j] = words[j], words[i]
            break
    else:
        words += words
    return dataclasses.replace(sample, prompt=" ".join(words))


def _retouched(image: bytes, rng: random.Random) -> bytes:
    """As a PNG with one pixel changed; bytes that are no image stay as they are."""
    from PIL import Image

    try:
        picture = Image.open(io.BytesIO(image)).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return image
    place = rng.randrange(picture.width), rng.randrange(picture.height)
    red, *others = picture.getpixel(place)  # type: ignore[misc]
    picture.putpixel(place, ((red + 1 + rng.randrange(250)) % 256, *others))
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def looks_cached(answers: Iterable[Answer]) -> bool:
    """Whether fresh answers took far longer than repeated ones, in all and by their length: a cache, or chance if they are few."""
    answered = [a for a in answers if a.error is None and a.answer_s is not None]
    again, fresh = ([a for a in answered if a.kind == kind] for kind in ("again", "fresh"))
    if not again or not fresh:
        return False
    whole = _median_s(fresh) > max(CACHE_FACTOR * _median_s(again), _median_s(again) + TOO_SHORT_S)
    return whole and _median_s(fresh, True) > CACHE_FACTOR * _median_s(again, True)


def _median_s(answers: Sequence[Answer], by_length: bool = False) -> float:
    return statistics.median((a.answer_s or 0.0) / (max(a.num_units, 1) if by_length else 1) for a in answers)


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
