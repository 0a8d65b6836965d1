"""Detects degenerate answers. A canary that triggers on more answers than it tolerates makes the run INVALID.

For all answers:
nan        the pipeline's own numbers contain NaN or infinity
identical  two different prompts have the same answer, or videos that are the same to the eye, turned or played backwards
For videos:
black      every frame is one flat dark tone
frozen     all frames are the same, although the prompt requests motion or does not mention it
noise      neighbouring pixels are unrelated
repeated_frames  frames are copies or means of other frames
upscaled   frames were enlarged from fewer pixels, or half of each is a copy of the other half
unreadable the saved file is missing or damaged
For texts that are not the expected answer:
empty      there is no visible character
looping    a short unit is repeated to the end
cut_off    the length limit ended the answer, or most are exactly as long as the longest and end in the middle of a sentence
echo       the answer begins with its prompt
utf8       some bytes are not text

Every answer is examined: of timed queries and untimed ones, the first to a prompt and the later ones, and new ones of the replays.
One answer is enough, except for what sound models do occasionally or users do on purpose: `TOLERATED` shares of texts. The setting
`canaries` of a run gives another share by name, or switches a canary off; report.json lists those that tolerate more under `loosened`.
A share is the mean over the prompts of the share of a prompt's answers, since some prompts are answered more often than others. Of texts
that answer the few new prompts of the replays, which are hardly sentences, more than half must trigger.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from metrics.base import Run
from metrics.validity.answers import ALIKE, GivenAnswer, given_answers, look_at, turned
from metrics.validity.text_canaries import CLOSED, check_text, is_echo
from workloads.records import Sample

VIDEO_CANARIES = ("nan", "black", "frozen", "noise", "repeated_frames", "upscaled", "identical", "unreadable")
TEXT_CANARIES = ("nan", "empty", "looping", "cut_off", "echo", "utf8", "identical")

# Shares of text answers: greedy decoding loops occasionally, refusals are alike, and a limit may be short on purpose, while an end token
# that is never recognised cuts off nearly all answers.
TOLERATED = {"looping": 0.05, "identical": 0.05, "echo": 0.05, "cut_off": 0.5}
LONG_TEXT = 12  # tokens: shorter answers are often equal by chance
SHORTEST_LIMIT = 16  # tokens: shorter answers of one length are labels and the like
LONG_WORDS, PARTS = 40, 4  # texts of so many words are the same where all but one of so many parts are
ALIKE_SHARE = 0.05  # of prompts: two may ask for the same scene, and get videos that look the same
FRESH_SHARE = 0.5  # of new prompts' texts
ROWS = 1000  # of thumbnails that are compared with all others at a time


def canaries_for(run: Run) -> tuple[str, ...]:
    """Names of the canaries that examine this run's answers."""
    return TEXT_CANARIES if run.workload.unit == "tokens" else VIDEO_CANARIES


def scan(run: Run) -> dict[str, list[str]]:
    """Names of the canaries that each answer triggers, by the answer's label; without answers that trigger none."""
    found: dict[str, list[str]] = {}
    answers = given_answers(run)
    silently_cut = _silently_cut(answers) if run.workload.unit == "tokens" else set()
    for answer in answers:
        if names := _triggered(run, answer, answer.label in silently_cut):
            found[answer.label] = names
    for label in _identical_texts(answers) if run.workload.unit == "tokens" else _identical_videos(run, answers):
        found.setdefault(label, []).append("identical")
    return found


def failures(run: Run, triggered: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Canaries that trigger on more answers than they tolerate, with these answers. triggered: the result of `scan`."""
    if not triggered:
        return {}
    tolerated = {name: 1.0 if share == "off" else share for name, share in _tolerated(run).items()}
    groups: dict[bool, list[GivenAnswer]] = {False: [], True: []}  # by whether they are fresh
    for answer in given_answers(run):
        groups[answer.fresh].append(answer)
    found: dict[str, list[str]] = {}
    for name in canaries_for(run):
        limit = tolerated.get(name, 0.0)
        for fresh, group in groups.items():
            hits = [answer.label for answer in group if name in triggered.get(answer.label, ())]
            least = max(limit, FRESH_SHARE) if fresh and run.workload.unit == "tokens" else limit
            if hits and _share(group, set(hits)) > least:
                found.setdefault(name, []).extend(hits)
    return found


def _share(answers: Sequence[GivenAnswer], hits: set[str]) -> float:
    """The mean over the prompts."""
    by_prompt = defaultdict(list)
    for answer in answers:
        by_prompt[answer.sample.index].append(answer.label in hits)
    return sum(sum(each) / len(each) for each in by_prompt.values()) / len(by_prompt)


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


def _silently_cut(answers: Sequence[GivenAnswer]) -> set[str]:
    """Labels of answers that are all as long as the longest and end in the middle of a sentence, where most are: a limit ended them."""
    longest = max((answer.num_units for answer in answers), default=0)
    as_long = [a for a in answers if a.num_units == longest >= SHORTEST_LIMIT and not (a.text or "").rstrip().endswith(CLOSED)]
    cut = [answer for answer in as_long if not _is_expected(answer)]
    most = TOLERATED["cut_off"] * len({answer.sample.index for answer in answers})
    return {answer.label for answer in cut} if len({answer.text for answer in cut}) > most else set()


def _triggered(run: Run, answer: GivenAnswer, silently_cut: bool) -> list[str]:
    found = [] if answer.finite else ["nan"]
    if answer.media is not None:
        try:
            found += look_at(run.folder / answer.media).alarms[bool(answer.sample.meta.get("expects_motion", True))]
        except ValueError:
            found.append("unreadable")
    elif run.workload.unit == "tokens" and not _is_expected(answer):
        text = answer.text or ""
        was_cut = answer.finish_reason == "length" or silently_cut
        found += check_text(text, was_cut) + (["cut_off"] if was_cut else []) + (["echo"] if is_echo(text, answer.sample.prompt) else [])
    return found


def _is_expected(answer: GivenAnswer) -> bool:
    meta = answer.sample.meta
    return "answer" in meta and (answer.text or "").strip() == str(meta["answer"]).strip()


def _identical_videos(run: Run, answers: Iterable[GivenAnswer]) -> Iterator[str]:
    """Videos with the pixels of another prompt's video; and those that look like one, where that is more than a few."""
    prompts_of: dict[str, set[str]] = {}
    videos = [answer for answer in answers if answer.media is not None]
    for answer in videos:
        prompts_of.setdefault(answer.digest, set()).add(answer.sample.prompt)
    alike = _alike(run, {answer.digest: answer for answer in videos}.values())
    prompts = {answer.sample.prompt for answer in videos}
    if len({answer.sample.prompt for answer in videos if answer.digest in alike}) <= ALIKE_SHARE * len(prompts):
        alike = set()
    for answer in videos:
        if len(prompts_of[answer.digest]) > 1 or answer.digest in alike:
            yield answer.label


def _alike(run: Run, videos: Iterable[GivenAnswer]) -> set[str]:
    """Digests of videos that look like one of another prompt, turned or not.

    Not where images are given: alike ones have videos that are alike.
    """
    digests, questions, thumbnails = [], [], []
    for answer in videos:
        if answer.sample.images:
            continue
        try:
            thumbnail = look_at(run.folder / str(answer.media)).thumbnail
        except ValueError:
            continue
        if thumbnail is not None:
            digests.append(answer.digest)
            questions.append(hash(answer.sample.prompt))
            thumbnails.append(thumbnail)
    found: set[str] = set()
    for shape in {t.shape for t in thumbnails}:
        these = [i for i, t in enumerate(thumbnails) if t.shape == shape]
        stacked, asked = np.stack([thumbnails[i] for i in these]), np.array([questions[i] for i in these])
        for first in range(0, len(these), ROWS):
            rows = slice(first, first + ROWS)
            likest = functools.reduce(np.maximum, (stacked[rows] @ other.T for other in turned(stacked)))
            same = (likest >= ALIKE) & (asked[rows, None] != asked[None])
            found |= {digests[these[first + i]] for i in np.flatnonzero(same.any(1))}
    return found


def _identical_texts(answers: Iterable[GivenAnswer]) -> Iterator[str]:
    """Long texts that answer another prompt too and are not the expected answer.

    Where samples have references, the references must differ: two prompts may ask for the same answer. A new prompt's text counts where
    it is the answer to the prompt that it was made from.
    """
    seen: dict[Hashable, set[str]] = {}
    keys: dict[str, Sequence[Hashable]] = {}
    for answer in answers:
        if not answer.text or answer.num_units < LONG_TEXT or _is_expected(answer):
            continue
        if not answer.fresh:
            keys[answer.label], question = [*_text_keys(answer.text)], _question(answer.sample)
            for key in keys[answer.label]:
                seen.setdefault(key, set()).add(question)
        elif answer.timed_text and not answer.sample.images and {*_text_keys(answer.text)} & {*_text_keys(answer.timed_text)}:
            yield answer.label
    for label, each in keys.items():
        if any(len(seen[key]) > 1 for key in each):
            yield label


def _question(sample: Sample) -> str:
    """Equal for samples that may have the same answer: those with one reference or, without references, one prompt and images."""
    if "answer" in sample.meta:
        return str(sample.meta["answer"])
    return sample.prompt + "".join(hashlib.sha256(image).hexdigest() for image in sample.images)


def _text_keys(text: str) -> Iterator[Hashable]:
    """Texts that share a key are the same: their words are or, of long ones, all but one part of them."""
    words = re.findall(r"\w+", text.lower()) or [text.strip()]
    yield _hash(words)
    if len(words) >= LONG_WORDS:
        edges = [round(len(words) * i / PARTS) for i in range(PARTS + 1)]
        parts = [_hash(words[a:b]) for a, b in itertools.pairwise(edges)]
        for left_out in range(PARTS):
            yield (left_out, len(words), *parts[:left_out], *parts[left_out + 1 :])


def _hash(words: Sequence[str]) -> bytes:
    return hashlib.sha256(" ".join(words).encode(errors="surrogatepass")).digest()[:8]
