"""ROUGE and exact match of answers made by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from metrics.base import Run
from metrics.quality.exact_match import ExactMatch
from metrics.quality.rouge import Rouge
from tests.conftest import record

MakeRun = Callable[..., Run]


def summary(answer: str) -> dict[str, object]:
    return {"answer": answer, "scored_by": "rouge", "task": "summary"}


def test_rouge_of_a_worked_example(make_text_run: MakeRun) -> None:
    # all 3 words of 6, both pairs of 5
    run = make_text_run([record(0, text="The cat sat.")], [summary("the cat sat on the mat.")])
    figures = Rouge().compute(run)
    assert figures["rouge_1"].value == pytest.approx(2 / 3)
    assert figures["rouge_2"].value == pytest.approx(4 / 7)
    assert figures["rouge_l"].value == pytest.approx(2 / 3)


def test_rouge_lsum_takes_sentence_by_sentence(make_text_run: MakeRun) -> None:
    figures = Rouge().compute(make_text_run([record(0, text="d e f. a b c.")], [summary("a b c. d e f.")]))
    assert figures["rouge_l"].value == pytest.approx(0.5)
    assert figures["rouge_lsum"].value == pytest.approx(1.0)


def test_rouge_stems_words(make_text_run: MakeRun) -> None:
    figures = Rouge().compute(make_text_run([record(0, text="it moved")], [summary("it moves")]))
    assert figures["rouge_1"].value == 1.0


def test_rouge_scores_only_samples_marked_for_it_and_failures_with_0(make_text_run: MakeRun) -> None:
    records = [record(0, text="a b"), record(1, status="failed"), record(2, text="a b"), record(3, status="failed")]
    metas = [summary("a b"), summary("a b"), {"answer": "a b", "task": "colour"}, {"answer": "a b", "task": "colour"}]
    figures = Rouge().compute(make_text_run(records, metas))
    assert {name: (f.value, f.n) for name, f in figures.items()} == dict.fromkeys(("rouge_1", "rouge_2", "rouge_l", "rouge_lsum"), (0.5, 2))


def test_exact_match_ignores_only_case_and_outer_space(make_text_run: MakeRun) -> None:
    records = [record(0, text=" Red\n"), record(1, text="red."), record(2, text="r ed"), record(3, text="red")]
    metas = [{"answer": "red"}] * 3 + [{"answer": " RED "}]
    assert ExactMatch().compute(make_text_run(records, metas))["exact_match"].value == 0.5


def test_exact_match_by_task_and_held_out(make_text_run: MakeRun) -> None:
    metas = [
        {"answer": "a", "task": "colour", "held_out": True},
        {"answer": "a", "task": "colour", "held_out": False},
        {"answer": "a", "task": "shape", "held_out": True},
        summary("a"),
    ]
    records = [record(0, text="a"), record(1, text="b"), record(2, status="failed"), record(3, text="b")]
    figures = ExactMatch().compute(make_text_run(records, metas))
    assert {name: (f.value, f.n) for name, f in figures.items()} == {
        "exact_match": (pytest.approx(1 / 3), 3),
        "exact_match_colour": (0.5, 2),
        "exact_match_held_out": (0.5, 2),
        "exact_match_shape": (0.0, 1),
    }


def test_one_task_and_one_split_have_no_figure_of_their_own(make_text_run: MakeRun) -> None:
    metas = [{"answer": "a", "task": "colour", "held_out": True}] * 2
    assert list(ExactMatch().compute(make_text_run([record(0, text="a"), record(1, text="a")], metas))) == ["exact_match"]


def test_a_failed_answer_without_a_reference_is_not_scored(make_text_run: MakeRun) -> None:
    run = make_text_run([record(0, status="failed")])
    assert ExactMatch().compute(run) == {}
    assert Rouge().compute(run) == {}
