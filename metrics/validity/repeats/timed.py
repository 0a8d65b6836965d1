"""Truth checks of queries that the tests themselves repeat.

modes          the performance and the accuracy test of one run give the same answers
later_answers  a sample that is answered again in one test gets the same answer; where a pipeline reports that its answers do not repeat,
               one that scores no worse
and, for the check cached_answers: a sample that is answered again takes as long as the new one beside it.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from scipy import special

from configs.registry import find, make
from metrics.base import Run, SampleMetric
from metrics.validity.check import Check, differs, holds, not_made
from metrics.validity.repeats.pairs import Pair, are_different, pair_of, summary_of
from pipelines.launcher.replay import TOO_SHORT_S
from workloads.records import Record

MAX_PAIRS = 16  # videos of each of the two tests that are read
BY_CHANCE = 1e-4  # the probability that later answers are so much worse, or so much sooner there, by chance (sign test)
FASTER = 10.0  # times: no change of a machine's load makes answers so much faster from one batch to the next
NEAR = 20  # batches that lie between two which are compared, at most


def checks(run: Run) -> list[Check]:
    return [_modes(run, run.ranks), _later_answers(run)]


def _modes(run: Run, ranks: Sequence[Mapping[str, Any]]) -> Check:
    if run.config.mode != "both":
        return not_made("modes", f"there was one test, {run.config.mode}")
    if any(rank.get("repeats", "alone") != "alone" for rank in ranks):
        return not_made("modes", "the pipeline reports that its answers do not repeat, or only in the same batch")
    timed, judged = first_done(run, "performance"), first_done(run, "accuracy")
    common = sorted(timed.keys() & judged.keys())
    if not common:
        return not_made("modes", "no sample was answered in both tests")
    unlike = [i for i in common if timed[i].digest != judged[i].digest]
    read = unlike if run.workload.unit == "tokens" else unlike[:: -(-len(unlike) // MAX_PAIRS) or 1]
    pairs = [pair_of(run, timed[i], judged[i], partial(run.video, judged[i]), f"sample {i}") for i in read]
    pairs += [Pair(f"sample {i}", True, (timed[i].rank, judged[i].rank), math.inf) for i in common if i not in unlike]
    summary = summary_of(pairs, "given in both tests")
    return differs("modes", summary) if are_different(pairs) else holds("modes", summary)


def _later_answers(run: Run) -> Check:
    repeated = [records for mode in run.outcome for records in _by_sample(run, mode) if len(records) > 1]
    if not repeated:
        return not_made("later_answers", "no sample was answered more than once in one test")
    if any(rank.get("repeats", "alone") != "alone" for rank in run.ranks):
        return _later_scores(run, repeated)
    pairs = [pair for records in repeated for pair in _pairs(run, records)]
    summary = summary_of(pairs, "given again in one test")
    return differs("later_answers", summary) if are_different(pairs) else holds("later_answers", summary)


def _by_sample(run: Run, mode: str) -> list[list[Record]]:
    """The answers of that test to each sample, in the order in which they were finished."""
    by_sample: dict[tuple[int, int], list[Record]] = defaultdict(list)
    for record in run.of_mode(mode):
        if record.status == "done":
            by_sample[record.sample_index, record.seed].append(record)
    return list(by_sample.values())


def _pairs(run: Run, records: Sequence[Record]) -> Iterator[Pair]:
    """Each later answer with the first; of equal ones, one is read."""
    read: dict[str, Pair] = {}
    for record in records[1:]:
        if record.digest not in read:
            label = f"query {record.query_id}, sample {record.sample_index} again"
            read[record.digest] = pair_of(run, records[0], record, partial(run.video, record), label)
        yield read[record.digest]


def _later_scores(run: Run, repeated: Sequence[Sequence[Record]]) -> Check:
    """The last answer to each sample against the first, by the workload's main metrics of single answers (sign test)."""
    why = "the pipeline reports that its answers do not repeat, or only in the same batch"
    unlike = [records for records in repeated if any(r.digest != records[0].digest for r in records)]
    names = [n for n in dict.fromkeys((*run.workload.default_metrics, *run.metric_names)) if issubclass(find("metrics", n), SampleMetric)]
    metrics: list[SampleMetric] = [make("metrics", name, {}) for name in names if find("metrics", name).headline]
    compared = []
    for metric in metrics if not run.has_random_weights else ():
        first, last = (
            {r.sample_index: scores[r.query_id][metric.name] for r in records if metric.name in scores.get(r.query_id, {})}
            for records in ([each[0] for each in unlike], [each[-1] for each in unlike])
            for scores in [metric.scores(replace(run, records=records, outcome={}))]
        )
        changes = [last[i] - first[i] for i in first.keys() & last.keys()]
        sign = 1 if metric.better == "higher" else -1
        worse, better = sum(sign * c < 0 for c in changes), sum(sign * c > 0 for c in changes)
        text = f"{metric.name}: {worse} later answers score lower than the first to their sample, {better} higher, of {len(changes)}"
        if worse and _chance_of_more(worse, worse + better) < BY_CHANCE / len(metrics):
            return differs("later_answers", text)
        compared += [text] if changes else []
    if not unlike:
        return holds("later_answers", f"all answers to {len(repeated)} samples are the first ones again")
    return holds("later_answers", "; ".join(compared)) if compared else not_made("later_answers", f"{why}; no metric scores them")


def cached_when_timed(run: Run) -> str:
    """Why timed answers come from a cache: batches of repeated samples take far less time than ones of new samples beside them.

    Empty where that is not so, or cannot be said: LoadGen's offline scenario issues each sample once before it repeats any, so that only
    batches near that moment can be compared, and 14 of new samples at least. Not for engines that answer queries while others run,
    because their times depend on those.
    """
    bad = []
    for rank in sorted({r.rank for r in run.timed}):
        batches = _batches([r for r in run.timed if r.rank == rank])
        pairs = [(s, _nearest(batches, i)) for i, (is_new, s) in enumerate(batches) if is_new]
        ratios = [s / max(other, 1e-9) for s, other in pairs if other is not None and s > TOO_SHORT_S]
        slower = sum(ratio > 1 for ratio in ratios)
        if not ratios or statistics.median(ratios) <= FASTER:
            continue
        if _chance_of_more(slower, len(ratios)) < BY_CHANCE:
            bad.append(
                f"rank {rank}: {len(ratios)} new ones took {statistics.median(ratios):.3g} times as long as a repeated one beside them"
            )
    return f"repeated queries are more than {FASTER:g} times as fast while they are timed: {'; '.join(bad)}" if bad else ""


def _chance_of_more(num: int, n: int) -> float:
    """The probability of at least `num` heads in `n` throws of a coin (sign test)."""
    return float(special.bdtrc(num - 1, n, 0.5))


def _batches(records: Sequence[Record]) -> list[tuple[bool, float]]:
    """Of one rank, in order: whether most of the batch's samples are new to it, and seconds an answer; mixed batches count as new."""
    by_start: dict[float, list[Record]] = defaultdict(list)
    for record in records:
        if record.worked_s is not None and record.first_token_s is None:
            by_start[record.worked_s[0]].append(record)
    seen: set[int] = set()
    found = []
    for start in sorted(by_start):
        samples = [r.sample_index for r in by_start[start]]
        num_new = len(set(samples) - seen)
        seconds = max(r.worked_s[1] for r in by_start[start] if r.worked_s) - start
        if num_new == 0 or 2 * num_new >= len(samples):
            found.append((num_new > 0, seconds / len(samples)))
        seen |= set(samples)
    return found


def _nearest(batches: Sequence[tuple[bool, float]], place: int) -> float | None:
    """Seconds an answer of the nearest batch of repeated samples."""
    for distance in range(1, NEAR + 1):
        for other in (place - distance, place + distance):
            if 0 <= other < len(batches) and not batches[other][0]:
                return batches[other][1]
    return None


def first_done(run: Run, mode: str, rank: int | None = None) -> dict[int, Record]:
    """By sample; of any rank where none is named."""
    found: dict[int, Record] = {}
    for record in run.of_mode(mode):
        if record.status == "done" and rank in (None, record.rank):
            found.setdefault(record.sample_index, record)
    return found
