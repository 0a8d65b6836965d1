"""Truth checks: whether a run did what was requested, and its answers are the timed ones. Each has a name and stands in report.json.

effective_settings.py  requested and effective settings
client_lag.py          whether a server's client was quick enough to measure it
answer_counts.py       how many frames or tokens answers and prompts have, how answers ended, and whether images matter
repeats/replays.py     timed queries that the ranks repeated after the test
repeats/timed.py       samples that were answered more than once
repeats/first_tokens.py  tokens that are announced ahead of their answers
and here, from the records alone:
handed_over    the saved answers are those that were handed over when they were timed
accounted      every issued query has one Record, and LoadGen counts as many
hard_queries   no query failed or is missing, and long prompts are not dismissed with one short answer

A check that differs makes the run INVALID; one that could not be made says why. Degenerate answers are detected in canaries.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from metrics.base import Run
from metrics.validity import answer_counts, client_lag, effective_settings
from metrics.validity.answers import given_answers, label_of, look_at
from metrics.validity.check import Check, differs, holds, not_made
from metrics.validity.repeats import first_tokens, replays, timed
from pipelines.launcher.replay import digest_of_text
from workloads.records import Record

MIN_ALIKE = 4  # different prompts dismissed with the same answer
SHORT = 0.25  # of the median length of the other answers: longer ones save no work
TOLERATED = 0.05  # share of answers: refusals are alike and short
BY_CHANCE = 1e-3  # the probability that dismissed prompts are so much longer by chance (Mann-Whitney test)


def checks(run: Run) -> list[Check]:
    """All checks. An aborted run is INVALID for another reason, and only its settings are checked."""
    if not run.outcome or any(outcome.get("aborted") for outcome in run.outcome.values()):
        return effective_settings.checks(run)
    return [
        *effective_settings.checks(run),
        *replays.checks(run),
        *answer_counts.checks(run),
        *client_lag.checks(run),
        *timed.checks(run),
        *first_tokens.checks(run),
        _handed_over(run),
        _accounted(run),
        _hard_queries(run),
    ]


def _handed_over(run: Run) -> Check:
    """Of every answer. Files that cannot be read trigger the canary `unreadable` instead."""
    num_compared, wrong = 0, list[str]()
    for answer in given_answers(run):
        if not answer.digest:
            continue
        try:
            saved = digest_of_text(answer.text or "") if answer.media is None else look_at(run.folder / answer.media).digest
        except ValueError:
            continue
        num_compared += 1
        if saved != answer.digest:
            wrong.append(answer.label)
    if not num_compared:
        return not_made("handed_over", "there is no answer to compare")
    if wrong:
        return differs(
            "handed_over",
            f"{len(wrong)} of {num_compared} saved answers are not those handed over when they were given, first {wrong[0]}",
        )
    return holds("handed_over", f"{num_compared} saved answers are those handed over when they were given")


def _accounted(run: Run) -> Check:
    """LoadGen's detail log has its own count: queries, and samples of each."""
    by_mode = {mode: run.of_mode(mode) for mode in run.outcome}
    twice = sum(len(records) - len({r.query_id for r in records}) for records in by_mode.values())
    num_issued, num_records = run.num_issued, sum(map(len, by_mode.values()))
    if twice or num_records != num_issued:
        return differs("accounted", f"{num_issued} queries were issued, {num_records} have Records, {twice} have more than one")
    counted = _loadgen_count(run)
    if counted is None:
        return holds("accounted", f"{num_issued} queries and as many Records; LoadGen logged no count of a timed test")
    if counted != len(by_mode.get("performance", [])):
        return differs(
            "accounted", f"LoadGen counts {counted} samples of the timed test, {len(by_mode.get('performance', []))} have Records"
        )
    return holds("accounted", f"{num_issued} queries and as many Records; LoadGen counts {counted} in the timed test")


def _loadgen_count(run: Run) -> int | None:
    try:
        log = (run.folder / "performance/mlperf_log_detail.txt").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = {key: re.search(rf'"key": "{key}", "value": (\d+)', log) for key in ("generated_samples_per_query", "result_query_count")}
    if not all(found.values()):
        return None
    each, count = (int(match.group(1)) for match in found.values() if match)
    return each * count


def _hard_queries(run: Run) -> Check:
    judged = run.judged
    if not judged:
        return not_made("hard_queries", "there is no answer to judge")
    lost = [r for r in judged if r.status == "failed"]
    if num_failed := run.num_failed:
        message = f"{num_failed} queries failed or are missing"
        if (chance := _chance(run, lost)) is not None and chance < BY_CHANCE:
            message += f"; the {len(lost)} samples among them have the longest prompts (p = {chance:.1g})"
        return differs("hard_queries", message)
    for answers in (judged, list({r.sample_index: r for r in run.records}.values())):  # the first to each prompt, and the last
        dismissed = _dismissed(run, answers)
        chance = _chance(run, dismissed)
        if len(dismissed) > TOLERATED * len(judged) and chance is not None and chance < BY_CHANCE:
            return differs(
                "hard_queries",
                f"{len(dismissed)} of {len(judged)} prompts, all long, have the same short answer {str(dismissed[0].text)!r} "
                f"(p = {chance:.1g}), first {label_of(run, dismissed[0])}",
            )
    return holds("hard_queries", f"all {len(judged)} samples are answered, and long prompts are not dismissed")


def _dismissed(run: Run, records: Sequence[Record]) -> list[Record]:
    """The largest group of short, equal answers to different prompts, none of them the expected one."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        sample = run.samples[record.sample_index]
        if record.media is None and (record.text or "").strip() != str(sample.meta.get("answer", "\0")).strip():
            groups.setdefault((record.text or "").strip(), []).append(record)
    alike = max(groups.values(), key=len, default=[])
    lengths = sorted(r.num_units for r in records if r not in alike)
    if len({run.samples[r.sample_index].prompt for r in alike}) < MIN_ALIKE or not lengths:
        return []
    return alike if alike[0].num_units <= SHORT * lengths[len(lengths) // 2] else []


def _chance(run: Run, records: Sequence[Record]) -> float | None:
    """The probability that so many prompts, drawn at random, are so much longer than the others; None where there are no others."""
    chosen = {r.sample_index for r in records}
    lengths = {r.sample_index: len(run.samples[r.sample_index].prompt) for r in run.judged}
    these, others = ([n for i, n in lengths.items() if (i in chosen) == wanted] for wanted in (True, False))
    if not these or not others:
        return None
    from scipy.stats import mannwhitneyu  # here: few runs need it, and its import takes half of a report's time

    return float(mannwhitneyu(these, others, alternative="greater").pvalue)
