"""Truth checks of answers that the ranks repeated after the test; pipelines/launcher/replay.py repeats them.

replay          a rank repeats its timed answers untimed, and gave the same answers before the clock started
ranks           another rank repeats timed answers
modes           the performance and the accuracy test of one run give the same answers
cached_answers  a repeated query takes as long as a new one, and another seed gives another video
busy_after      a rank has nothing left to compute when an answer is there and its file is written
first_token     the first token, as it was announced ahead of its answer, is the answer's

Two videos are the same where their peak signal-to-noise ratio is MIN_PSNR or more. Measured with the embedded model: the same weights in
batches of 1 and of 4 reach 93 dB and more in float32, 55 in bfloat16; 4 steps in place of 8 reach 18 to 29; another seed 13 to 19.
Texts that differ by rounding alone diverge late: of 1,000 equal requests to a served Qwen3-235B at temperature 0 none differed within the
first 102 tokens (He et al., Defeating Nondeterminism in LLM Inference, 2025). So texts differ where more than half of those compared
diverge, and do so after fewer than 1 / MAX_RATE words on average.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu

from metrics.base import Run
from metrics.similarity.video import psnr
from metrics.validity.check import Check, differs, holds, not_made
from pipelines.launcher.messages import Answer
from pipelines.launcher.replay import CACHE_FACTOR, MAX_BUSY_S, SURE_PAIRS, TOO_SHORT_S, looks_cached
from workloads.records import Record
from workloads.run_folder.media import read_video

MIN_PSNR = {True: 40.0, False: 30.0}  # dB; by whether all weights are float32
MAX_RATE = 0.05  # of words at which two texts diverge
BY_CHANCE = 1e-4  # the probability that fresh answers are so much slower by chance (Mann-Whitney test)
SOME_BUSY_S, BUSY_SHARE = 0.5, 0.2  # seconds, or that share of an answer, until a rank is idle
MAX_PAIRS = 16  # videos of each of the two tests that are read


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one query, and how similar they are.

    label: whose answers they are. ranks: which gave them. psnr: of videos, in dB. num_agreed: words before the first that differs.
    failed: there is no second answer to compare.
    """

    label: str
    same: bool
    ranks: tuple[int, int]
    psnr: float | None = None
    num_agreed: int = 0
    failed: bool = False

    @property
    def crossed(self) -> bool:
        return self.ranks[0] != self.ranks[1]


def checks(run: Run) -> list[Check]:
    """All of them, in the order above."""
    ranks = run.ranks
    mode = next((mode for mode in ("performance", "accuracy") if run.outcome.get(mode, {}).get("replays")), None)
    answers = [msgspec.convert(a, Answer) for a in run.outcome[mode]["replays"]] if mode else []
    again = [a for a in answers if a.kind == "again"]
    why = _why_not(run, ranks, answers)
    in_batches = any(rank.get("repeats") == "in_batch" for rank in ranks)  # and the warm-up's batches are no timed ones
    pairs = [] if why else _compared(run, [a for a in answers if a.kind == "again" or (a.kind == "warm-up" and not in_batches)], str(mode))
    replay = not_made("replay", why) if why else _replay(pairs)
    return [
        replay,
        not_made("ranks", why) if why else _ranks(pairs, len(ranks), replay),
        _modes(run, ranks),
        not_made("cached_answers", why) if why and not answers else _cached(answers),
        _busy_after(ranks, again),
        _first_token(answers),
    ]


def _why_not(run: Run, ranks: Sequence[Mapping[str, Any]], answers: Sequence[Answer]) -> str:
    """Why answers cannot be compared; empty where they can be."""
    if not answers:
        return "truth.replays is 0" if not run.config.truth.replays else "no query was repeated"
    if any(rank.get("repeats") == "never" for rank in ranks):
        return "the pipeline reports that its answers never repeat"
    return ""


def _replay(compared: Sequence[tuple[str, Pair]]) -> Check:
    own = [(kind, pair) for kind, pair in compared if not pair.crossed]
    groups = [([pair for k, pair in own if k == kind], what) for kind, what in (("again", "repeated"), ("warm-up", "of the warm-up"))]
    if bad := [_summary(group, what) for group, what in groups if _are_different(group)]:
        return differs("replay", "; ".join(bad))
    if not own:
        return not_made("replay", "no timed query was repeated by its own rank")
    return holds("replay", "; ".join(_summary(group, what) for group, what in groups if group))


def _ranks(compared: Sequence[tuple[str, Pair]], num_ranks: int, replay: Check) -> Check:
    if num_ranks < 2:
        return not_made("ranks", "one replica gave all answers")
    if replay.result == "differs":
        return not_made("ranks", "ranks do not repeat their own answers; see replay")
    crossed = [pair for _, pair in compared if pair.crossed]
    if not crossed:
        return not_made("ranks", "no timed query was repeated by another rank")
    bad = []
    for rank in sorted({rank for pair in crossed for rank in pair.ranks}):
        pairs = [pair for pair in crossed if rank in pair.ranks]
        if _are_different(pairs):
            bad.append(_summary(pairs, f"that rank {rank} and another gave"))
    return differs("ranks", "; ".join(bad)) if bad else holds("ranks", _summary(crossed, "repeated by another rank"))


def _modes(run: Run, ranks: Sequence[Mapping[str, Any]]) -> Check:
    if run.config.mode != "both":
        return not_made("modes", f"there was one test, {run.config.mode}")
    if any(rank.get("repeats", "alone") != "alone" for rank in ranks):
        return not_made("modes", "the pipeline reports that its answers do not repeat, or only in the same batch")
    timed, judged = _first_done(run, "performance"), _first_done(run, "accuracy")
    common = sorted(timed.keys() & judged.keys())
    if not common:
        return not_made("modes", "no sample was answered in both tests")
    unlike = [i for i in common if timed[i].digest != judged[i].digest]
    read = unlike if run.workload.unit == "tokens" else unlike[:: -(-len(unlike) // MAX_PAIRS) or 1]
    pairs = [_pair(run, timed[i], judged[i], partial(run.video, judged[i]), f"sample {i}") for i in read]
    pairs += [Pair(f"sample {i}", True, (timed[i].rank, judged[i].rank), math.inf) for i in common if i not in unlike]
    summary = _summary(pairs, "given in both tests")
    return differs("modes", summary) if _are_different(pairs) else holds("modes", summary)


def _cached(answers: Sequence[Answer]) -> Check:
    fresh, again = ([a for a in answers if a.kind == kind and a.error is None] for kind in ("fresh", "again"))
    if not fresh or not again:
        error = next((a.error for a in answers if a.error), None)
        return not_made("cached_answers", f"a query that is not in the data set failed: {error}" if error else "no new query was made")
    videos = {(a.timed_rank, a.query_id): a.digest for a in again if a.text is None}
    same = [a for a in fresh if a.text is None and videos.get((a.timed_rank, a.query_id)) == a.digest]
    if same and len(same) == sum(a.text is None for a in fresh):
        return differs("cached_answers", f"another seed gives the same video, {len(same)} of {len(same)} times; query {same[0].query_id}")
    compared, bad, unsure = list[str](), list[str](), list[str]()
    for rank in sorted({a.rank for a in fresh}):
        before, new = ([a for a in group if a.rank == rank] for group in (again, fresh))
        if not before:
            continue
        seconds = [[a.answer_s or 0.0 for a in group] for group in (before, new)]
        one = f"rank {rank}: {_median(seconds[0])} for repeated queries, {_median(seconds[1])} for new ones, {len(new)} of each"
        compared.append(one)
        if looks_cached([*before, *new]):
            sure = len(before) >= SURE_PAIRS and mannwhitneyu(seconds[0], seconds[1], alternative="less").pvalue < BY_CHANCE
            (bad if sure else unsure).append(one)
    if bad:
        return differs("cached_answers", f"repeated queries are more than {CACHE_FACTOR:g} times as fast: " + "; ".join(bad))
    if unsure:
        return not_made("cached_answers", "times vary too much for a verdict: " + "; ".join(unsure))
    if max(a.answer_s or 0.0 for a in fresh) < TOO_SHORT_S:
        return not_made("cached_answers", f"answers take less than {TOO_SHORT_S:g} s, too short for a verdict: " + "; ".join(compared))
    return holds("cached_answers", "; ".join(compared))


def _median(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds):.3g} s"


def _busy_after(ranks: Sequence[Mapping[str, Any]], again: Sequence[Answer]) -> Check:
    if any(rank.get("rests") is False for rank in ranks):
        return not_made("busy_after", "the pipeline reports that its threads are never idle")
    found, bad = [], []
    for rank in ranks:
        mine = [a for a in again if a.rank == rank["rank"] and a.busy_s is not None]
        backlog_s = rank.get("backlog_s")
        if backlog_s is None or not mine:
            continue
        limit = max(SOME_BUSY_S, BUSY_SHARE * statistics.median(a.answer_s or 0.0 for a in mine))
        after_s = statistics.median(a.busy_s or 0.0 for a in mine)
        found.append(max(after_s, backlog_s))
        if max(after_s, backlog_s) > limit:
            after = f"{backlog_s:.2f} s after the last timed answer was written and {after_s:.2f} s after a repeated one"
            bad.append(f"rank {rank['rank']} was busy for {after}; at most {limit:.2f} s are allowed (it was watched for {MAX_BUSY_S:g} s)")
    if bad:
        return differs("busy_after", "; ".join(bad))
    if not found:
        return not_made("busy_after", "no query was repeated")
    return holds("busy_after", f"{len(found)} ranks were idle within {max(found):.2f} s of an answer")


def _first_token(answers: Sequence[Answer]) -> Check:
    announced = [a for a in answers if a.announced is not None and a.first_token_id is not None]
    if not announced:
        return not_made("first_token", "no first token was announced with its id")
    wrong = [a for a in announced if a.announced != a.first_token_id]
    if wrong:
        which = f"query {wrong[0].query_id}: announced {wrong[0].announced}, answered {wrong[0].first_token_id}"
        return differs(
            "first_token", f"{len(wrong)} of {len(announced)} announced first tokens are not those of their answers, first {which}"
        )
    return holds("first_token", f"{len(announced)} announced first tokens are those of their answers")


def _compared(run: Run, answers: Sequence[Answer], mode: str) -> list[tuple[str, Pair]]:
    """Each answer's kind, and its pair with the timed answer: of a warm-up's, that of the same rank if there is one, else of another."""
    by_id = {a.query_id: a for a in answers if a.kind == "again"}
    timed = {r.query_id: r for r in run.of_mode(mode) if r.query_id in by_id}
    first = _first_done(run, mode)
    own = {rank: _first_done(run, mode, rank) for rank in {a.rank for a in answers}}
    found: list[tuple[str, Pair]] = []
    for answer in answers:
        if answer.kind == "again":
            record = timed.get(answer.query_id)
        else:
            record = own[answer.rank].get(answer.sample_index) or first.get(answer.sample_index)
        if record is not None:
            found.append((answer.kind, _pair_with_timed(run, record, answer)))
    return found


def _pair_with_timed(run: Run, record: Record, answer: Answer) -> Pair:
    label = f"query {record.query_id}" + (f" of rank {record.rank} on rank {answer.rank}" if answer.rank != record.rank else "")
    if answer.error is not None:
        return Pair(f"{label}: {answer.error}", False, (record.rank, answer.rank), failed=True)
    return _pair(run, record, answer, lambda: read_video(run.folder / str(answer.media)), label)


def _first_done(run: Run, mode: str, rank: int | None = None) -> dict[int, Record]:
    """By sample; of any rank where none is named."""
    found: dict[int, Record] = {}
    for record in run.of_mode(mode):
        if record.status == "done" and rank in (None, record.rank):
            found.setdefault(record.sample_index, record)
    return found


def _pair(run: Run, record: Record, other: Answer | Record, video: Callable[[], NDArray[np.uint8]], label: str) -> Pair:
    """video: reads the other answer's."""
    ranks, text = (record.rank, other.rank), record.text or ""
    if other.digest == record.digest:
        return Pair(label, True, ranks, math.inf, len(text.split()) + 1)
    if record.media is None:
        return Pair(label, False, ranks, num_agreed=_agreed(text, other.text or ""))
    try:
        one, two = run.video(record), video()
    except ValueError as error:
        return Pair(f"{label}: {error}", False, ranks, failed=True)
    ratio = psnr(one, two) if one.shape == two.shape else 0.0
    return Pair(label, ratio >= MIN_PSNR[_all_float32(run)], ranks, ratio)


def _agreed(one: str, other: str) -> int:
    """Words before the first that differs."""
    words = list(zip(one.split(), other.split(), strict=False))
    return next((i for i, (a, b) in enumerate(words) if a != b), len(words))


def _all_float32(run: Run) -> bool:
    seen = [rank.get("found") or {} for outcome in run.outcome.values() for rank in outcome.get("ranks", ())]
    return not any({"bfloat16", "float16"} & set(counted) for found in seen for counted in found.get("weights", {}).values())


def _are_different(pairs: Sequence[Pair]) -> bool:
    """Whether the pairs show different work: one pair of videos is enough; for texts see the module's docstring."""
    unlike = [p for p in pairs if not p.same]
    if any(p.failed or p.psnr is not None for p in unlike):
        return True
    num_words = sum(p.num_agreed for p in pairs) + len(unlike)
    return len(unlike) > len(pairs) / 2 and len(unlike) > MAX_RATE * num_words


def _summary(pairs: Sequence[Pair], what: str) -> str:
    unlike = [p for p in pairs if not p.same]
    text = f"{len(pairs) - len(unlike)} of {len(pairs)} answers {what} are the same"
    ratios = [p.psnr for p in pairs if p.psnr is not None and math.isfinite(p.psnr)]
    text += f" ({min(ratios):.1f} dB and more)" if ratios and not unlike else ""
    if unlike:
        first = unlike[0]
        how = f", {first.psnr:.1f} dB" if first.psnr is not None else "" if first.failed else f", different after {first.num_agreed} words"
        text += f"; first that differs: {first.label}{how}"
    return text
