"""Truth checks of answers that the ranks repeated after the test; pipelines/launcher/replay.py repeats them.

replay          a rank repeats its timed answers untimed, and gave the same answers before the clock started
ranks           another rank repeats timed answers
cached_answers  a repeated query takes as long as a new one, also when both are timed, and another seed gives another video
busy_after      a rank has nothing left to compute when an answer is there and its file is written

timed.py and first_tokens.py have more checks of repeated queries; pairs.py says which answers are the same.

"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from metrics.base import Run
from metrics.validity.answers import are_alike, look_at, replays_of
from metrics.validity.check import Check, differs, holds, not_made
from metrics.validity.repeats.pairs import Pair, are_different, pair_of, summary_of
from metrics.validity.repeats.timed import cached_when_timed, first_done
from pipelines.launcher.messages import Answer
from pipelines.launcher.replay import CACHE_FACTOR, MAX_BUSY_S, SURE_PAIRS, TOO_SHORT_S, looks_cached
from workloads.records import Record
from workloads.run_folder.media import read_video

BY_CHANCE = 1e-4  # the probability that fresh answers are so much slower by chance (Mann-Whitney test)
KINDS = {("again", "fresh"): "", ("again-together", "fresh-together"): ", several at the same time"}
SOME_BUSY_S, BUSY_SHARE = 0.5, 0.2  # seconds, or that share of an answer, until a rank is idle


def checks(run: Run) -> list[Check]:
    """All of them, in the order above."""
    ranks = run.ranks
    mode, answers = replays_of(run)
    again = [a for a in answers if a.kind == "again"]
    why = _why_not(run, ranks, answers)
    in_batches = any(rank.get("repeats") == "in_batch" for rank in ranks)  # and the warm-up's batches are no timed ones
    pairs = [] if why else _compared(run, [a for a in answers if a.kind == "again" or (a.kind == "warm-up" and not in_batches)], str(mode))
    replay = not_made("replay", why) if why else _replay(pairs)
    return [
        replay,
        not_made("ranks", why) if why else _ranks(pairs, len(ranks), replay),
        not_made("cached_answers", why) if why and not answers else _cached(run, answers),
        _busy_after(ranks, again),
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
    if bad := [summary_of(group, what) for group, what in groups if are_different(group)]:
        return differs("replay", "; ".join(bad))
    if not own:
        return not_made("replay", "no timed query was repeated by its own rank")
    return holds("replay", "; ".join(summary_of(group, what) for group, what in groups if group))


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
        if are_different(pairs):
            bad.append(summary_of(pairs, f"that rank {rank} and another gave"))
    return differs("ranks", "; ".join(bad)) if bad else holds("ranks", summary_of(crossed, "repeated by another rank"))


def _cached(run: Run, answers: Sequence[Answer]) -> Check:
    if found := cached_when_timed(run):
        return differs("cached_answers", found)
    fresh, again = ([a for a in answers if a.kind == kind and a.error is None] for kind in ("fresh", "again"))
    if not fresh or not again:
        error = next((a.error for a in answers if a.error), None)
        return not_made("cached_answers", f"a query that is not in the data set failed: {error}" if error else "no new query was made")
    same = [a for a in fresh if a.text is None and _same_video(run, a)]
    if same and len(same) == sum(a.text is None for a in fresh):
        return differs("cached_answers", f"another seed gives the same video, {len(same)} of {len(same)} times; query {same[0].query_id}")
    compared, bad, unsure = list[str](), list[str](), list[str]()
    for rank, (kinds, how) in itertools.product(sorted({a.rank for a in fresh}), KINDS.items()):
        before, new = ([a for a in answers if (a.kind, a.rank, a.error) == (kind, rank, None)] for kind in kinds)
        if not before or not new:
            continue
        seconds = [[a.answer_s or 0.0 for a in group] for group in (before, new)]
        one = f"rank {rank}: {_median(seconds[0])} for repeated queries{how}, {_median(seconds[1])} for new ones, {len(new)} of each"
        compared.append(one)
        if looks_cached([*before, *new], kinds):
            (bad if len(before) >= SURE_PAIRS and _chance_of_less(*seconds) < BY_CHANCE else unsure).append(one)
    if bad:
        return differs("cached_answers", f"repeated queries are more than {CACHE_FACTOR:g} times as fast: " + "; ".join(bad))
    if unsure:
        return not_made("cached_answers", "times vary too much for a verdict: " + "; ".join(unsure))
    if max(a.answer_s or 0.0 for a in fresh) < TOO_SHORT_S:
        return not_made("cached_answers", f"answers take less than {TOO_SHORT_S:g} s, too short for a verdict: " + "; ".join(compared))
    return holds("cached_answers", "; ".join(compared))


def _chance_of_less(these: Sequence[float], others: Sequence[float]) -> float:
    from scipy.stats import mannwhitneyu  # here: few runs need it, and its import takes half of a report's time

    return float(mannwhitneyu(these, others, alternative="less").pvalue)


def _same_video(run: Run, fresh: Answer) -> bool:
    """Whether another seed gave the timed video or, to a prompt alone, one that looks the same."""
    mode, _ = replays_of(run)
    timed = next((r for r in run.of_mode(str(mode)) if r.query_id == fresh.query_id), None)
    if timed is None or timed.media is None or timed.digest == fresh.digest:
        return timed is not None and timed.digest == fresh.digest
    if fresh.media is None or run.samples[fresh.sample_index].images:  # an image determines most of its video
        return False
    try:
        return are_alike(*(look_at(run.folder / media) for media in (timed.media, fresh.media)))
    except ValueError:
        return False


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


def _compared(run: Run, answers: Sequence[Answer], mode: str) -> list[tuple[str, Pair]]:
    """Each answer's kind, and its pair with the timed answer: of a warm-up's, that of the same rank if there is one, else of another."""
    by_id = {a.query_id: a for a in answers if a.kind == "again"}
    timed = {r.query_id: r for r in run.of_mode(mode) if r.query_id in by_id}
    first = first_done(run, mode)
    own = {rank: first_done(run, mode, rank) for rank in {a.rank for a in answers}}
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
    return pair_of(run, record, answer, lambda: read_video(run.folder / str(answer.media)), label)
