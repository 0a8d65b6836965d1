"""Checks of repeated queries on records and replays made by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from metrics.base import Run
from metrics.validity.check import Check
from metrics.validity.repeats import first_tokens, timed
from metrics.validity.repeats.pairs import are_different, pair_of
from tests.conftest import record
from workloads.records import Record

MakeRun = Callable[..., Run]


def with_outcome(run: Run, replays: Sequence[dict[str, Any]] = (), **rank: Any) -> Run:
    return replace(run, outcome={"performance": {"ranks": [{"rank": 0, **rank}], "replays": list(replays)}})


def streamed(first_s: float, gap_s: float, num_units: int = 8, **fields: Any) -> dict[str, Any]:
    """A fresh answer of a replay: its first token, and its end after the gaps."""
    end_s = first_s + gap_s * (num_units - 1)
    times = {"first_token_s": first_s, "answer_s": end_s, "token_gap_s": [gap_s] * (num_units - 1)}
    named = {"kind": "fresh", "rank": 0, "query_id": 0, "sample_index": 0, "seed": 1, "num_units": num_units, "text": "a"}
    return named | times | {"announced": 1, "first_token_id": 1} | fields


def first_token_time(run: Run, *replays: dict[str, Any]) -> Check:
    return next(c for c in first_tokens.checks(with_outcome(run, replays)) if c.name == "first_token_time")


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (streamed(0.05, 0.01), "holds"),
        (streamed(0.0031, 0.01), "holds"),  # 0.3 of a token's time and more
        (streamed(0.0029, 0.01), "differs"),
        (streamed(0.01, 0.01, answer_s=0.1499), "holds"),  # up to half of the time behind the first token is in no gap
        (streamed(0.01, 0.01, answer_s=0.1501), "differs"),
        (streamed(0.01, 0.01, token_gap_s=[0.051, *[0.01] * 6], answer_s=0.12), "differs"),  # a first gap of more than 5 others
        (streamed(0.01, 0.01, token_gap_s=[0.049, *[0.01] * 6], answer_s=0.12), "holds"),
        (streamed(0.0, 0.01, token_gap_s=[]), "differs"),
        (streamed(0.005, 0.01, token_gap_s=[]), "not made"),  # what was left to compute after it shows nowhere
        (streamed(0.0, 0.01, 3), "not made"),
        (streamed(0.0, 0.0009), "not made"),
        (streamed(0.0, 0.01, first_token_s=None), "not made"),
    ],
)
def test_a_first_token_cannot_come_before_it_is_computed(make_text_run: MakeRun, answer: dict[str, Any], result: str) -> None:
    assert first_token_time(make_text_run([record(0)]), answer).result == result


def test_one_early_token_of_two_is_chance(make_text_run: MakeRun) -> None:
    run = make_text_run([record(0)])
    assert first_token_time(run, streamed(0.0, 0.01), streamed(0.05, 0.01)).result == "holds"
    assert first_token_time(run, streamed(0.0, 0.01), streamed(0.0, 0.01), streamed(0.05, 0.01)).result == "differs"


def test_timed_answers_must_end_when_their_gaps_say(make_text_run: MakeRun) -> None:
    def at(completed_s: float) -> Check:
        times = {"issued_s": 0.0, "first_token_s": 0.1, "completed_s": completed_s, "num_units": 8, "token_gap_s": [0.01] * 7}
        return first_token_time(make_text_run([record(i, text="a", **times) for i in range(3)]))

    assert at(0.23).result == "not made"
    assert (at(0.26).result, at(0.26).message[:32]) == ("differs", "3 of 3 timed answers ended far l")


def later_answers(run: Run, **rank: Any) -> Check:
    return next(c for c in timed.checks(with_outcome(run, **rank)) if c.name == "later_answers")


def test_a_sample_that_is_answered_again_gets_the_same_answer(make_text_run: MakeRun) -> None:
    def answers(*texts: str) -> Run:
        return make_text_run([record(i, sample_index=0, text=text, digest=text) for i, text in enumerate(texts)], [{}])

    assert later_answers(answers("one")).result == "not made"
    assert later_answers(answers("one", "one")).result == "holds"
    assert later_answers(answers("one", "two")).result == "differs"
    assert later_answers(answers("one", "two", "one")).result == "holds"  # not more than half of them
    assert later_answers(answers("one", "two"), repeats="never").result == "not made"


def test_later_answers_that_may_differ_must_score_as_well(make_text_run: MakeRun) -> None:
    def scored(num_worse: int, num_better: int) -> Check:
        count = num_worse + num_better
        texts = [("yes", "no") if i < num_worse else ("no", "yes") for i in range(count)]  # the first answer, and the later one
        answers = [(i, both[number]) for number in (0, 1) for i, both in enumerate(texts)]
        records = [record(n, sample_index=i, text=text, digest=text) for n, (i, text) in enumerate(answers)]
        return later_answers(make_text_run(records, [{"answer": "yes"}] * count), repeats="never")

    assert scored(13, 0).result == "holds"
    assert scored(15, 0).result == "differs"
    assert scored(0, 15).result == "holds"
    assert scored(15, 15).result == "holds"


@pytest.mark.parametrize(
    ("lengths", "is_cut"),
    [((8, 6), False), ((8, 5), True), ((8, 10), False), ((8, 11), True), ((200, 161), False), ((200, 160), True), ((160, 200), True)],
)
def test_a_text_that_ends_where_the_other_goes_on_is_cut(make_text_run: MakeRun, lengths: tuple[int, int], is_cut: bool) -> None:
    """One of 160 words diverges no more often than rounding makes texts diverge."""
    records = [record(i, text=" ".join(map(str, range(n))), digest=str(i)) for i, n in enumerate(lengths)]
    run = make_text_run(records)
    pair = pair_of(run, records[0], records[1], lambda: run.video(records[1]), "one")
    assert (pair.is_cut, pair.num_agreed) == (is_cut, min(lengths))
    assert are_different([pair]) is (is_cut or min(lengths) < 20)


def batches(*batch: tuple[Sequence[int], float]) -> list[Record]:
    """Records of batches, one after the other: their samples, and the seconds that each took."""
    records: list[Record] = []
    begin = 0.0
    for samples, seconds in batch:
        for sample in samples:
            records.append(record(len(records), sample_index=sample, worked_s=(begin, begin + seconds)))
        begin += seconds
    return records


@pytest.mark.parametrize(
    ("repeated_s", "count", "cached"),
    [(0.009, 20, True), (0.011, 20, False), (0.009, 10, False)],  # 20 of 20 by chance: 1e-6; 10 of 10: 1e-3
)
def test_repeated_samples_that_take_far_less_time_come_from_a_cache(make_run: MakeRun, repeated_s: float, count: int, cached: bool) -> None:
    order = [((0,), 0.1), *(b for i in range(1, count + 1) for b in (((i,), 0.1), ((i - 1,), repeated_s)))]
    found = timed.cached_when_timed(make_run(records=batches(*order)))
    assert bool(found) is cached, found


def test_a_machine_that_becomes_faster_has_no_cache(make_run: MakeRun) -> None:
    new, again = [((i,), 0.1 if i < 20 else 0.02) for i in range(30)], [((i,), 0.009) for i in range(30)]
    assert timed.cached_when_timed(make_run(records=batches(*new, *again))) == ""
    new = [((i,), 0.1) for i in range(30)]
    assert timed.cached_when_timed(make_run(records=batches(*new, *again))) != ""
