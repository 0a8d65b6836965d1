"""Signs that an answer is no answer: each canary names what it saw. One that sings makes the run INVALID.

nan        the pipeline's own numbers held NaN or infinity
black      every frame is one flat dark tone
frozen     all frames are the same although the prompt asks for motion or says nothing of it
noise      neighbouring pixels have nothing to do with each other
identical  two different prompts got the same answer
unreadable the saved file is missing or damaged
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from metrics.base import Run
from workloads.records import Record, Sample

CANARIES = ("nan", "black", "frozen", "noise", "identical", "unreadable")

BLACK_LEVEL, FLAT_SPREAD = 16, 2.0  # of 255
FROZEN_CHANGE = 1  # of 255: the largest change of any pixel, at most
NOISE_CORRELATION = 0.35  # of neighbours; natural and drawn videos are above 0.8
MIN_SPREAD = 4.0  # of 255: a video flatter than this has no texture to judge


def listen(run: Run) -> dict[int, list[str]]:
    """Names of the canaries that sing, by query id, for the judged answers."""
    found: dict[int, list[str]] = {}
    for record in run.judged:
        if record.status == "done" and (names := _sing(run, run.samples[record.sample_index], record)):
            found[record.query_id] = names
    for record in _identical(run):
        found.setdefault(record.query_id, []).append("identical")
    return found


def watch_video(video_THWC: NDArray[np.uint8], expects_motion: bool = True) -> list[str]:
    """The canaries that a video's pixels alone can set off."""
    found = []
    spread = float(video_THWC.std(axis=(1, 2)).max())
    if int(video_THWC.max()) <= BLACK_LEVEL and spread < FLAT_SPREAD:
        found.append("black")
    elif expects_motion and int(np.abs(np.diff(video_THWC.astype(np.int16), axis=0)).max(initial=0)) <= FROZEN_CHANGE:
        found.append("frozen")
    if spread > MIN_SPREAD and _neighbour_correlation(video_THWC) < NOISE_CORRELATION:
        found.append("noise")
    return found


def _sing(run: Run, sample: Sample, record: Record) -> list[str]:
    found = [] if record.finite else ["nan"]
    if record.media is not None:
        try:
            found += watch_video(run.video(record), bool(sample.meta.get("expects_motion", True)))
        except ValueError:
            found.append("unreadable")
    return found


def _neighbour_correlation(video_THWC: NDArray[np.uint8]) -> float:
    """Mean correlation of a pixel with the one right of it and the one below."""
    grey = video_THWC.mean(-1)
    pairs = ((grey[:, :, :-1], grey[:, :, 1:]), (grey[:, :-1], grey[:, 1:]))
    return float(np.mean([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in pairs]))


def _identical(run: Run) -> Sequence[Record]:
    """Videos whose pixels another prompt's video has too. Short texts may well be alike and are left out."""
    seen: dict[str, set[str]] = {}
    videos = [r for r in run.judged if r.status == "done" and r.media is not None]
    for record in videos:
        seen.setdefault(record.digest, set()).add(run.samples[record.sample_index].prompt)
    return [r for r in videos if len(seen[r.digest]) > 1]
