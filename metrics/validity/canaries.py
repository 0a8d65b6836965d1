"""Signs that an answer is no answer: each canary names what it saw. One that sings makes the run INVALID.

Of any answer:
nan        the pipeline's own numbers held NaN or infinity
identical  two different prompts got the same answer
Of videos:
black      every frame is one flat dark tone
frozen     all frames are the same although the prompt asks for motion or says nothing of it
noise      neighbouring pixels have nothing to do with each other
unreadable the saved file is missing or damaged
Of texts, where the answer is not the expected one:
empty      there is no visible character
looping    a short unit is repeated to the end
cut_off    the length limit ended the answer
utf8       some bytes were no text

One such answer is enough, but for what sound models do at times and users do on purpose: `TOLERATED` shares of texts. A run's `canaries`
sets a share by name, or switches one off; `loosened` is what the report says of that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metrics.base import Run
from metrics.validity.text_canaries import watch_text
from workloads.records import Record, Sample

VIDEO_CANARIES = ("nan", "black", "frozen", "noise", "identical", "unreadable")
TEXT_CANARIES = ("nan", "empty", "looping", "cut_off", "utf8", "identical")

# Shares of text answers: greedy decoding now and then loops, refusals are alike, and a limit may be short on purpose; an end
# token that is never found cuts nearly all.
TOLERATED = {"looping": 0.05, "identical": 0.05, "cut_off": 0.5}
LONG_TEXT = 12  # tokens: shorter answers may well be alike

BLACK_LEVEL, FLAT_SPREAD = 16, 2.0  # of 255
FROZEN_CHANGE = 1  # of 255: the largest change of any pixel, at most
NOISE_CORRELATION = 0.35  # of neighbours; natural and drawn videos are above 0.8
MIN_SPREAD = 4.0  # of 255: a video flatter than this has no texture to judge


def applying(run: Run) -> tuple[str, ...]:
    """The canaries that listen to this run's answers."""
    return TEXT_CANARIES if run.workload.unit == "tokens" else VIDEO_CANARIES


def listen(run: Run) -> dict[int, list[str]]:
    """What each judged answer shows, by query id: names of canaries."""
    found: dict[int, list[str]] = {}
    for record in run.judged:
        if record.status == "done" and (names := _sing(run, run.samples[record.sample_index], record)):
            found[record.query_id] = names
    for record in _identical_texts(run) if run.workload.unit == "tokens" else _identical_videos(run):
        found.setdefault(record.query_id, []).append("identical")
    return found


def alarms(run: Run, shown: Mapping[int, Sequence[str]]) -> dict[str, list[int]]:
    """The canaries that sing, with the queries that they sing of; `shown` is what `listen` gave."""
    tolerated = {name: 1.0 if share == "off" else share for name, share in _tolerated(run).items()}
    found = {name: [q for q, names in shown.items() if name in names] for name in applying(run)}
    return {name: queries for name, queries in found.items() if len(queries) > tolerated.get(name, 0.0) * len(run.judged)}


def loosened(run: Run) -> dict[str, str]:
    """Canaries that the run was told to bear more of than they are by themselves, and how much: `off`, or a share of answers."""
    usual, found = _usual(run), {}
    for name, share in run.config.canaries.items():
        if name in applying(run) and (share == "off" or share > usual.get(name, 0.0)):
            found[str(name)] = share if share == "off" else f"{share:g}"
    return found


def _usual(run: Run) -> Mapping[str, float]:
    return TOLERATED if run.workload.unit == "tokens" else {}


def _tolerated(run: Run) -> dict[str, Any]:
    return {**_usual(run), **{str(name): share for name, share in run.config.canaries.items()}}


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
    elif run.workload.unit == "tokens" and not _is_expected(sample, record):
        was_cut = record.finish_reason == "length"
        found += watch_text(record.text or "", was_cut) + (["cut_off"] if was_cut else [])
    return found


def _is_expected(sample: Sample, record: Record) -> bool:
    return "answer" in sample.meta and (record.text or "").strip() == str(sample.meta["answer"]).strip()


def _neighbour_correlation(video_THWC: NDArray[np.uint8]) -> float:
    """Mean correlation of a pixel with the one right of it and the one below."""
    grey = video_THWC.mean(-1)
    pairs = ((grey[:, :, :-1], grey[:, :, 1:]), (grey[:, :-1], grey[:, 1:]))
    return float(np.mean([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in pairs]))


def _identical_videos(run: Run) -> Sequence[Record]:
    """Videos whose pixels another prompt's video has too."""
    seen: dict[str, set[str]] = {}
    videos = [r for r in run.judged if r.status == "done" and r.media is not None]
    for record in videos:
        seen.setdefault(record.digest, set()).add(run.samples[record.sample_index].prompt)
    return [r for r in videos if len(seen[r.digest]) > 1]


def _identical_texts(run: Run) -> Sequence[Record]:
    """Long texts that are the answer to another prompt too, none of them the expected one.

    Where the samples have references it is these that must differ: two prompts may well ask for the same.
    """
    seen: dict[str, set[str]] = {}
    texts = []
    for record in run.judged:
        sample = run.samples[record.sample_index]
        if record.status == "done" and record.text and record.num_units >= LONG_TEXT and not _is_expected(sample, record):
            texts.append(record)
            seen.setdefault(record.text, set()).add(str(sample.meta.get("answer", sample.prompt)))
    return [r for r in texts if len(seen[str(r.text)]) > 1]
