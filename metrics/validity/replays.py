"""Truth checks of what the ranks said when they were asked again; the asking is in pipelines/launcher/replay.py.

replay          timed answers are given again by the rank that gave them, untimed; and so were they before the clock started
ranks           timed answers are given again by another rank
modes           the performance and the accuracy test of one run give the same answers
cached_answers  what was asked before takes as long as what was not; and another seed gives another video
busy_after      when an answer is there, and its file is written, its rank has nothing left to compute
first_token     the first token, as it was announced ahead of its answer, is the answer's

Two videos are the same where their peak signal-to-noise ratio is MIN_PSNR or more. Measured with the embedded model: the same weights in
batches of 1 and of 4 come to 93 dB and more in float32, to 55 in bfloat16; 4 steps in place of 8 to 18 to 29; another seed to 13 to 19.
Two texts that part ways in rounding alone do so late: of 1,000 equal requests to a served Qwen3-235B at temperature 0 none differed
within the first 102 tokens (He et al., Defeating Nondeterminism in LLM Inference, 2025). So texts differ where more than half of those
compared part ways, and that after fewer than 1 / MAX_RATE words on average.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu

from metrics.base import Run
from metrics.validity.check import Check, differs, holds, not_made
from pipelines.launcher.messages import Answer
from pipelines.launcher.replay import CACHE_FACTOR, MAX_BUSY_S, SURE_PAIRS, TOO_SHORT_S, looks_cached
from workloads.records import Record
from workloads.run_folder.media import read_video

MIN_PSNR = {True: 40.0, False: 30.0}  # dB; by whether all weights are float32
MAX_RATE = 0.05  # of words at which a text parts ways with another
BY_CHANCE = 1e-4  # that fresh answers are so much slower, were they all alike (Mann and Whitney's test)
SOME_BUSY_S, BUSY_SHARE = 0.5, 0.2  # seconds, or that share of an answer, which may pass before a rank is at rest
MAX_PAIRS = 16  # of the two tests' videos that are read


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one query, and how much alike they are: psnr of videos, in dB; words in agreement of texts. told: whose they are.

    ranks: who gave them. failed: there is no second one to compare.
    """

    told: str
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
    """Why answers cannot be compared; empty where they can."""
    if not answers:
        return "truth.replays is 0" if not run.config.truth.replays else "nothing was asked again"
    if any(rank.get("repeats") == "never" for rank in ranks):
        return "the pipeline says that its answers never repeat"
    return ""


def _replay(compared: Sequence[tuple[str, Pair]]) -> Check:
    own = [(kind, pair) for kind, pair in compared if not pair.crossed]
    groups = [([pair for k, pair in own if k == kind], told) for kind, told in (("again", "asked again"), ("warm-up", "of the warm-up"))]
    if bad := [_told(group, told) for group, told in groups if _are_different(group)]:
        return differs("replay", "; ".join(bad))
    if not own:
        return not_made("replay", "no timed query was asked again of its own rank")
    return holds("replay", "; ".join(_told(group, told) for group, told in groups if group))


def _ranks(compared: Sequence[tuple[str, Pair]], num_ranks: int, replay: Check) -> Check:
    if num_ranks < 2:
        return not_made("ranks", "one replica answered all")
    if replay.result == "differs":
        return not_made("ranks", "ranks do not even repeat their own answers; see replay")
    crossed = [pair for _, pair in compared if pair.crossed]
    if not crossed:
        return not_made("ranks", "no timed query was asked again of another rank")
    bad = []
    for rank in sorted({rank for pair in crossed for rank in pair.ranks}):
        pairs = [pair for pair in crossed if rank in pair.ranks]
        if _are_different(pairs):
            bad.append(_told(pairs, f"that rank {rank} and another gave"))
    return differs("ranks", "; ".join(bad)) if bad else holds("ranks", _told(crossed, "asked again of another rank"))


def _modes(run: Run, ranks: Sequence[Mapping[str, Any]]) -> Check:
    if run.config.mode != "both":
        return not_made("modes", f"there was one test, {run.config.mode}")
    if any(rank.get("repeats", "alone") != "alone" for rank in ranks):
        return not_made("modes", "the pipeline says that its answers do not repeat, or in the same batch alone")
    timed, judged = _first_done(run, "performance"), _first_done(run, "accuracy")
    common = sorted(timed.keys() & judged.keys())
    if not common:
        return not_made("modes", "no sample was answered in both tests")
    unlike = [i for i in common if timed[i].digest != judged[i].digest]
    read = unlike if run.workload.unit == "tokens" else unlike[:: -(-len(unlike) // MAX_PAIRS) or 1]
    pairs = [_pair(run, timed[i], judged[i], _of_record(run, judged[i]), f"sample {i}") for i in read]
    pairs += [Pair(f"sample {i}", True, (timed[i].rank, judged[i].rank), math.inf) for i in common if i not in unlike]
    told = _told(pairs, "asked in both tests")
    return differs("modes", told) if _are_different(pairs) else holds("modes", told)


def _cached(answers: Sequence[Answer]) -> Check:
    fresh, again = ([a for a in answers if a.kind == kind and a.error is None] for kind in ("fresh", "again"))
    if not fresh or not again:
        error = next((a.error for a in answers if a.error), None)
        return not_made("cached_answers", f"what is in no data set is not answered: {error}" if error else "nothing fresh was asked")
    videos = {(a.timed_rank, a.query_id): a.digest for a in again if a.text is None}
    same = [a for a in fresh if a.text is None and videos.get((a.timed_rank, a.query_id)) == a.digest]
    if same and len(same) == sum(a.text is None for a in fresh):
        return differs("cached_answers", f"another seed gives the same video, {len(same)} of {len(same)} times; query {same[0].query_id}")
    told, bad, unsure = list[str](), list[str](), list[str]()
    for rank in sorted({a.rank for a in fresh}):
        before, new = ([a for a in group if a.rank == rank] for group in (again, fresh))
        if not before:
            continue
        seconds = [[a.answer_s or 0.0 for a in group] for group in (before, new)]
        one = f"rank {rank}: {_s(seconds[0])} what was asked before, {_s(seconds[1])} what was not, {len(new)} of each"
        told.append(one)
        if looks_cached([*before, *new]):
            sure = len(before) >= SURE_PAIRS and mannwhitneyu(seconds[0], seconds[1], alternative="less").pvalue < BY_CHANCE
            (bad if sure else unsure).append(one)
    if bad:
        return differs("cached_answers", f"more than {CACHE_FACTOR:g} times as fast: " + "; ".join(bad))
    if unsure:
        return not_made("cached_answers", "the machine was too unsteady to tell: " + "; ".join(unsure))
    if max(a.answer_s or 0.0 for a in fresh) < TOO_SHORT_S:
        return not_made("cached_answers", f"answers take less than {TOO_SHORT_S:g} s, too short to tell: " + "; ".join(told))
    return holds("cached_answers", "; ".join(told))


def _s(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds):.3g} s for"


def _busy_after(ranks: Sequence[Mapping[str, Any]], again: Sequence[Answer]) -> Check:
    if any(rank.get("rests") is False for rank in ranks):
        return not_made("busy_after", "the pipeline says that its threads never rest")
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
            parts = (f"{backlog_s:.2f} s when the last timed answer was on disk", f"{after_s:.2f} s after one asked alone")
            bad.append(f"rank {rank['rank']} was at work for {', '.join(parts)} (looked for {MAX_BUSY_S:g} s), allowed are {limit:.2f}")
    if bad:
        return differs("busy_after", "; ".join(bad))
    if not found:
        return not_made("busy_after", "nothing was asked again")
    return holds("busy_after", f"at rest within {max(found):.2f} s of an answer, on {len(found)} ranks")


def _first_token(answers: Sequence[Answer]) -> Check:
    told = [a for a in answers if a.announced is not None and a.first_token_id is not None]
    if not told:
        return not_made("first_token", "no answer had its first token announced with an id")
    wrong = [a for a in told if a.announced != a.first_token_id]
    if wrong:
        which = f"query {wrong[0].query_id}: {wrong[0].announced}, and {wrong[0].first_token_id} in the answer"
        return differs("first_token", f"{len(wrong)} of {len(told)} first tokens were announced wrongly, first of {which}")
    return holds("first_token", f"{len(told)} first tokens were those of their answers")


def _compared(run: Run, answers: Sequence[Answer], mode: str) -> list[tuple[str, Pair]]:
    """Each answer's kind, and it beside the timed one; of a warm-up's, that of the same rank if there is one, else of another."""
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
            found.append((answer.kind, _beside(run, record, answer)))
    return found


def _beside(run: Run, record: Record, answer: Answer) -> Pair:
    told = f"query {record.query_id}" + (f" of rank {record.rank} on rank {answer.rank}" if answer.rank != record.rank else "")
    if answer.error is not None:
        return Pair(f"{told}: {answer.error}", False, (record.rank, answer.rank), failed=True)
    return _pair(run, record, answer, lambda: read_video(run.folder / str(answer.media)), told)


def _first_done(run: Run, mode: str, rank: int | None = None) -> dict[int, Record]:
    """By sample; of any rank where none is named."""
    found: dict[int, Record] = {}
    for record in run.of_mode(mode):
        if record.status == "done" and rank in (None, record.rank):
            found.setdefault(record.sample_index, record)
    return found


def _of_record(run: Run, record: Record) -> Callable[[], NDArray[np.uint8]]:
    return lambda: run.video(record)


def _pair(run: Run, record: Record, other: Answer | Record, video: Callable[[], NDArray[np.uint8]], told: str) -> Pair:
    """video: reads the other answer's."""
    ranks, text = (record.rank, other.rank), record.text or ""
    if other.digest == record.digest:
        return Pair(told, True, ranks, math.inf, len(text.split()) + 1)
    if record.media is None:
        return Pair(told, False, ranks, num_agreed=_agreed(text, other.text or ""))
    try:
        ratio = psnr(run.video(record), video())
    except ValueError as error:
        return Pair(f"{told}: {error}", False, ranks, failed=True)
    return Pair(told, ratio >= MIN_PSNR[_all_float32(run)], ranks, ratio)


def _agreed(one: str, other: str) -> int:
    """Words before the first that differs."""
    words = list(zip(one.split(), other.split(), strict=False))
    return next((i for i, (a, b) in enumerate(words) if a != b), len(words))


def psnr(one_THWC: NDArray[np.uint8], other_THWC: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio in dB, over all pixels; infinity where they are equal, 0 where the videos' sizes differ."""
    if one_THWC.shape != other_THWC.shape:
        return 0.0
    error = float(np.mean((one_THWC.astype(np.float32) - other_THWC.astype(np.float32)) ** 2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def _all_float32(run: Run) -> bool:
    seen = [rank.get("found") or {} for outcome in run.outcome.values() for rank in outcome.get("ranks", ())]
    return not any({"bfloat16", "float16"} & set(counted) for found in seen for counted in found.get("weights", {}).values())


def _are_different(pairs: Sequence[Pair]) -> bool:
    """Of videos, one is enough; of texts see above."""
    unlike = [p for p in pairs if not p.same]
    if any(p.failed or p.psnr is not None for p in unlike):
        return True
    num_words = sum(p.num_agreed for p in pairs) + len(unlike)
    return len(unlike) > len(pairs) / 2 and len(unlike) > MAX_RATE * num_words


def _told(pairs: Sequence[Pair], what: str) -> str:
    unlike = [p for p in pairs if not p.same]
    text = f"{len(pairs) - len(unlike)} of {len(pairs)} answers {what} are the same"
    ratios = [p.psnr for p in pairs if p.psnr is not None and math.isfinite(p.psnr)]
    text += f" ({min(ratios):.1f} dB and more)" if ratios and not unlike else ""
    if unlike:
        first = unlike[0]
        how = f", {first.psnr:.1f} dB" if first.psnr is not None else "" if first.failed else f", apart after {first.num_agreed} words"
        text += f"; first otherwise: {first.told}{how}"
    return text
