"""All answers of a run, which canaries and truth checks examine: those of every query, timed or not, and new ones of its replays.

A video that was saved many times is decoded once: equal content is known by its digest.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from metrics.base import Run
from metrics.validity.video_canaries import check_video
from pipelines.launcher.messages import Answer
from pipelines.launcher.replay import digest_of_pixels
from workloads.records import Record, Sample
from workloads.run_folder.media import content_digest, read_video

SIDE, NUM_MOMENTS = 8, 4  # of a thumbnail: blocks a side, and frames
MIN_CONTRAST = 4.0  # of 255: of a flatter thumbnail nothing can be said
ALIKE = 0.995  # correlation of two thumbnails from which two videos are one. Measured: benchmarks/audits/canary_margins.py
ALIKE_SEEDS = 0.999  # the same, of one prompt with two seeds: a model may do nearly the same with both
MAX_KNOWN = 50_000  # videos whose looks are kept


@dataclass(frozen=True)
class GivenAnswer:
    """An answer as it was given. label: `query 7`, with the test where there were two. sample: what was asked.

    fresh: to a new seed or prompt of a replay; then `timed_digest` is that of the timed answer to the query that it stands beside.
    """

    label: str
    sample: Sample
    query_id: int
    fresh: bool
    digest: str
    media: str | None
    text: str | None
    num_units: int
    finish_reason: str | None
    finite: bool
    timed_text: str | None = None


@dataclass(frozen=True)
class Look:
    """What is kept of a video. digest: of its pixels, as in a Record. alarms: canaries, by whether the prompt expects motion.

    thumbnail: means of blocks, without each channel's mean, scaled to a length of 1; None for a video without contrast.
    """

    digest: str
    alarms: Mapping[bool, Sequence[str]]
    thumbnail: NDArray[np.float32] | None


_looks: dict[str, Look] = {}


def given_answers(run: Run) -> list[GivenAnswer]:
    """Every answered query, in the order of the records, then the fresh answers of replays."""
    return [_of_record(run, record) for record in run.records if record.status == "done"] + _fresh(run)


def label_of(run: Run, record: Record) -> str:
    """The answer's name in a report."""
    return f"query {record.query_id}" + (f" of the {record.mode} test" if len(run.outcome) > 1 else "")


def look_at(path: Path) -> Look:
    """Raises ValueError where the file is missing or damaged."""
    content = content_digest(path)
    if content not in _looks:
        if len(_looks) >= MAX_KNOWN:
            _looks.clear()
        video_THWC = read_video(path)
        alarms = tuple(check_video(video_THWC))
        by_motion = {True: alarms, False: tuple(name for name in alarms if name != "frozen")}
        _looks[content] = Look(digest_of_pixels(video_THWC), by_motion, thumbnail(video_THWC))
    return _looks[content]


def thumbnail(video_THWC: NDArray[np.uint8]) -> NDArray[np.float32] | None:
    """NUM_MOMENTS frames of SIDE x SIDE blocks; neither brightness, nor contrast, nor a few pixels or grain change it by much."""
    moments = np.linspace(0, len(video_THWC) - 1, NUM_MOMENTS).round().astype(int)
    small = video_THWC[moments].astype(np.float32)
    for axis in (1, 2):
        edges = np.linspace(0, small.shape[axis], min(SIDE, small.shape[axis]) + 1).round().astype(int)
        shape = [-1 if a == axis else 1 for a in range(4)]
        small = np.add.reduceat(small, edges[:-1], axis) / np.diff(edges).reshape(shape)
    small -= small.mean((0, 1, 2))
    if float(small.std()) < MIN_CONTRAST:
        return None
    return np.asarray(small / np.sqrt((small**2).sum()), np.float32).ravel()


def turned(thumbnails_NK: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """The thumbnails of the same videos as they are, mirrored, upside down and played backwards, in all combinations."""
    if thumbnails_NK.shape[1] != NUM_MOMENTS * SIDE * SIDE * 3:  # of frames with less than SIDE pixels
        yield thumbnails_NK
        return
    thumbnails_NTHWC = thumbnails_NK.reshape(-1, NUM_MOMENTS, SIDE, SIDE, 3)
    for backwards, upside_down, mirrored in itertools.product((1, -1), repeat=3):
        yield thumbnails_NTHWC[:, ::backwards, ::upside_down, ::mirrored].reshape(len(thumbnails_NK), -1)


def are_alike(one: Look, two: Look) -> bool:
    """Whether the videos of two seeds are the same to the eye."""
    if one.thumbnail is None or two.thumbnail is None or one.thumbnail.shape != two.thumbnail.shape:
        return one.digest == two.digest
    return float(one.thumbnail @ two.thumbnail) >= ALIKE_SEEDS


def replays_of(run: Run) -> tuple[str | None, list[Answer]]:
    """The test that was followed by replays, and their answers; None and none where there was no such test."""
    mode = next((mode for mode in ("performance", "accuracy") if run.outcome.get(mode, {}).get("replays")), None)
    return mode, [msgspec.convert(a, Answer) for a in run.outcome[mode]["replays"]] if mode else []


def _of_record(run: Run, r: Record) -> GivenAnswer:
    sample = run.samples[r.sample_index]
    return GivenAnswer(label_of(run, r), sample, r.query_id, False, r.digest, r.media, r.text, r.num_units, r.finish_reason, r.finite)


def _fresh(run: Run) -> list[GivenAnswer]:
    mode, answers = replays_of(run)
    timed = {r.query_id: r for r in run.of_mode(mode)} if mode else {}
    found = []
    for a in answers:
        if a.kind != "fresh" or a.error is not None or (a.text is None and a.media is None):  # older runs kept no videos of these
            continue
        sample = run.samples[a.sample_index]
        new = "seed" if a.text is None else "image" if sample.images else "prompt"
        if a.text is not None:
            sample = Sample(sample.index, sample.prompt if a.prompt is None else a.prompt, {}, sample.images)
        label = f"a new {new} in the replay of query {a.query_id}"
        text = timed[a.query_id].text if a.query_id in timed else None
        found.append(GivenAnswer(label, sample, a.query_id, True, a.digest, a.media, a.text, a.num_units, a.finish_reason, a.finite, text))
    return found
