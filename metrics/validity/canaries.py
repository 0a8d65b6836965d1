"""Detects degenerate answers. A canary that triggers on more answers than it tolerates makes the run INVALID.

For all answers:
nan        the pipeline's own numbers contain NaN or infinity
identical  two different prompts have the same answer
For videos:
black      every frame is one flat dark tone
frozen     all frames are the same, although the prompt requests motion or does not mention it
noise      neighbouring pixels are unrelated
unreadable the saved file is missing or damaged
For texts that are not the expected answer:
empty      there is no visible character
looping    a short unit is repeated to the end
cut_off    the length limit ended the answer
utf8       some bytes are not text

One answer is enough, except for what sound models do occasionally or users do on purpose: `TOLERATED` shares of texts. The setting
`canaries` of a run gives another share by name, or switches a canary off; report.json lists those that tolerate more under `loosened`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metrics.base import Run
from metrics.validity.text_canaries import check_text
from workloads.records import Record, Sample

VIDEO_CANARIES = ("nan", "black", "frozen", "noise", "identical", "unreadable")
TEXT_CANARIES = ("nan", "empty", "looping", "cut_off", "utf8", "identical")

# Shares of text answers: greedy decoding loops occasionally, refusals are alike, and a limit may be short on purpose, while an end token
# that is never recognised cuts off nearly all answers.
TOLERATED = {"looping": 0.05, "identical": 0.05, "cut_off": 0.5}
LONG_TEXT = 12  # tokens: shorter answers are often equal by chance

BLACK_LEVEL, FLAT_SPREAD = 16, 2.0  # of 255
FROZEN_CHANGE = 1  # of 255: the largest change of any pixel in a frozen video
NOISE_CORRELATION = 0.35  # of neighbours; natural and drawn videos are above 0.8
MIN_SPREAD = 4.0  # of 255: a flatter video has no texture to judge


def canaries_for(run: Run) -> tuple[str, ...]:
    """Names of the canaries that examine this run's answers."""
    return TEXT_CANARIES if run.workload.unit == "tokens" else VIDEO_CANARIES


def scan(run: Run) -> dict[int, list[str]]:
    """Names of the canaries that each judged answer triggers, by query id; without answers that trigger none."""
    found: dict[int, list[str]] = {}
    for record in run.judged:
        if record.status == "done" and (names := _triggered(run, run.samples[record.sample_index], record)):
            found[record.query_id] = names
    for record in _identical_texts(run) if run.workload.unit == "tokens" else _identical_videos(run):
        found.setdefault(record.query_id, []).append("identical")
    return found


def failures(run: Run, triggered: Mapping[int, Sequence[str]]) -> dict[str, list[int]]:
    """Canaries that trigger on more answers than they tolerate, with these queries. triggered: the result of `scan`."""
    tolerated = {name: 1.0 if share == "off" else share for name, share in _tolerated(run).items()}
    by_canary = {name: [q for q, names in triggered.items() if name in names] for name in canaries_for(run)}
    return {name: queries for name, queries in by_canary.items() if len(queries) > tolerated.get(name, 0.0) * len(run.judged)}


def loosened(run: Run) -> dict[str, str]:
    """Canaries that tolerate more in this run than by default, and how much: `off`, or a share of answers."""
    default, changed = _default_tolerance(run), {}
    for name, share in run.config.canaries.items():
        if name in canaries_for(run) and (share == "off" or share > default.get(name, 0.0)):
            changed[str(name)] = share if share == "off" else f"{share:g}"
    return changed


def _default_tolerance(run: Run) -> Mapping[str, float]:
    return TOLERATED if run.workload.unit == "tokens" else {}


def _tolerated(run: Run) -> dict[str, Any]:
    return {**_default_tolerance(run), **{str(name): share for name, share in run.config.canaries.items()}}


def check_video(video_THWC: NDArray[np.uint8], expects_motion: bool = True) -> list[str]:
    """The canaries that the pixels of a video trigger."""
    found = []
    spread = float(video_THWC.std(axis=(1, 2)).max())
    if int(video_THWC.max()) <= BLACK_LEVEL and spread < FLAT_SPREAD:
        found.append("black")
    elif expects_motion and int(np.abs(np.diff(video_THWC.astype(np.int16), axis=0)).max(initial=0)) <= FROZEN_CHANGE:
        found.append("frozen")
    if spread > MIN_SPREAD and _neighbour_correlation(video_THWC) < NOISE_CORRELATION:
        found.append("noise")
    return found


def _triggered(run: Run, sample: Sample, record: Record) -> list[str]:
    found = [] if record.finite else ["nan"]
    if record.media is not None:
        try:
            found += check_video(run.video(record), bool(sample.meta.get("expects_motion", True)))
        except ValueError:
            found.append("unreadable")
    elif run.workload.unit == "tokens" and not _is_expected(sample, record):
        was_cut = record.finish_reason == "length"
        found += check_text(record.text or "", was_cut) + (["cut_off"] if was_cut else [])
    return found


def _is_expected(sample: Sample, record: Record) -> bool:
    return "answer" in sample.meta and (record.text or "").strip() == str(sample.meta["answer"]).strip()


def _neighbour_correlation(video_THWC: NDArray[np.uint8]) -> float:
    """Mean correlation of a pixel with the one right of it and the one below."""
    grey = video_THWC.mean(-1)
    pairs = ((grey[:, :, :-1], grey[:, :, 1:]), (grey[:, :-1], grey[:, 1:]))
    return float(np.mean([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in pairs]))


def _identical_videos(run: Run) -> Sequence[Record]:
    """Videos with the same pixels as the video of another prompt."""
    seen: dict[str, set[str]] = {}
    videos = [r for r in run.judged if r.status == "done" and r.media is not None]
    for record in videos:
        seen.setdefault(record.digest, set()).add(run.samples[record.sample_index].prompt)
    return [r for r in videos if len(seen[r.digest]) > 1]


def _identical_texts(run: Run) -> Sequence[Record]:
    """Long texts that answer another prompt too and are not the expected answer.

    Where samples have references, the references must differ: two prompts may ask for the same answer.
    """
    seen: dict[str, set[str]] = {}
    texts = []
    for record in run.judged:
        sample = run.samples[record.sample_index]
        if record.status == "done" and record.text and record.num_units >= LONG_TEXT and not _is_expected(sample, record):
            texts.append(record)
            seen.setdefault(record.text, set()).add(str(sample.meta.get("answer", sample.prompt)))
    return [r for r in texts if len(seen[str(r.text)]) > 1]
