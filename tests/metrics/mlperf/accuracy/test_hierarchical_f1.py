"""Hierarchical F1 of categories, and the scores of brand and condition beside it, with the arithmetic written out."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from metrics.base import Run
from metrics.mlperf.accuracy.hierarchical_f1 import HierarchicalF1, Overlap, category, f1, overlap
from tests.conftest import record

MakeRun = Callable[..., Run]


def entry(path: str) -> str:
    return json.dumps({"category": path, "colour": "red"})


@pytest.mark.parametrize(
    ("answer", "expected", "counts"),
    [
        ("A > B > C", "A > B > C", (3, 3, 3)),
        ("A > B", "A > B > C", (2, 2, 3)),
        ("A > B > C > D", "A > B", (2, 4, 2)),
        ("A > X > C", "A > B > C", (1, 3, 3)),  # what follows a wrong level does not count
        ("X > B > C", "A > B > C", (0, 3, 3)),
        ("A >  B ", "A > B", (2, 2, 2)),
        ("a > B", "A > B", (0, 2, 2)),  # case counts
        (None, "A > B > C", (0, 3, 3)),
    ],
)
def test_levels_are_compared_from_the_root_on(answer: str | None, expected: str, counts: tuple[int, int, int]) -> None:
    assert overlap(answer, expected) == Overlap(*counts)


def test_f1_is_of_sums_and_not_a_mean_of_f1s() -> None:
    overlaps = [Overlap(3, 3, 3), Overlap(0, 1, 4)]
    precision, recall = 3 / 4, 3 / 7
    assert f1(overlaps) == pytest.approx(2 * precision * recall / (precision + recall))
    assert f1([Overlap(0, 2, 2)]) == 0.0


@pytest.mark.parametrize(
    "answer", ["", "red", "{", '{"colour": "red"}', '["A > B"]', '{"category": 3}', '{"category": " "}', None, "[" * 5000]
)
def test_what_is_no_json_with_a_category_has_none(answer: str | None) -> None:
    assert category(answer) is None


def test_unparsable_and_failed_answers_stay_in_the_denominator(make_run: MakeRun) -> None:
    answers = [entry("A > B > C"), "no json", entry("A > B > X"), None]
    records = [record(i, text=text, status="done" if text else "failed") for i, text in enumerate(answers)]
    figures = HierarchicalF1().compute(make_run(records=records, metas=[{"answer": entry("A > B > C")}] * 4))
    assert figures["hierarchical_f1"].value == pytest.approx((3 + 2) / 12)
    assert figures["hierarchical_f1"].n == 4
    assert figures["category_parsed"].value == 0.5


def test_a_failed_answer_s_text_is_not_judged(make_run: MakeRun) -> None:
    run = make_run(records=[record(0, text=entry("A > B"), status="failed")], metas=[{"answer": entry("A > B")}])
    assert HierarchicalF1().compute(run)["hierarchical_f1"].value == 0.0


def test_other_questions_are_not_judged(make_run: MakeRun) -> None:
    records = [record(0, text="red"), record(1, text=entry("A > B")), record(2, status="failed")]
    run = make_run(records=records, metas=[{"answer": "red"}, {"answer": entry("A > B")}, {"answer": "blue"}])
    assert HierarchicalF1().compute(run)["hierarchical_f1"].n == 1
    assert HierarchicalF1().scores(run) == {1: {"hierarchical_f1": 1.0}}


def test_a_run_without_categories_has_no_figure(make_run: MakeRun) -> None:
    assert HierarchicalF1().compute(make_run(records=[record(0, text="red")], metas=[{"answer": "red"}])) == {}


def test_the_interval_holds_the_figure_and_narrows_with_n(make_run: MakeRun) -> None:
    def width(n: int) -> float:
        records = [record(i, text=entry("A > B" if i % 2 else "A > X")) for i in range(n)]
        figure = HierarchicalF1().compute(make_run(records=records, metas=[{"answer": entry("A > B")}] * n))["hierarchical_f1"]
        assert figure.value == pytest.approx(0.75)
        assert figure.ci95 is not None
        low, high = figure.ci95
        assert low < 0.75 < high
        return high - low

    assert width(40) < width(10)


def product(category: str, brand: str = "Hollin", second: bool = False) -> str:
    return json.dumps({"category": category, "brand": brand, "is_secondhand": second})


def test_brand_and_condition_are_scored_beside_the_category(make_run: MakeRun) -> None:
    expected = [product("A > B", "Adidas", True)] * 4 + [product("A > B", "Hollin", False)] * 2
    answers = [
        product("A > B", "adidas ", True),  # all right
        product("A > C", "Adidaz", False),  # one level of two; 5 of 6 letters are 83 of 100: another brand
        "{}",  # no product: nothing right, and counted as not second-hand
        json.dumps({"category": "A > B", "brand": "Adidas", "is_secondhand": True, "price": 3}),  # one field too many
        product("A > B", "Hollin Ltd", True),
        product("A > B"),
    ]
    records = [record(i, text=text) for i, text in enumerate(answers)]
    figures = HierarchicalF1().compute(make_run(records=records, metas=[{"answer": a, "scored_by": "hierarchical_f1"} for a in expected]))
    assert figures["hierarchical_f1"].value == pytest.approx(2 * (2 + 1 + 0 + 0 + 2 + 2) / 24)
    assert figures["category_parsed"].value == pytest.approx(4 / 6)
    assert figures["brand_f1"].value == pytest.approx(2 / 6)
    # second-hand: TP 1, FN 3, FP 1
    assert figures["is_secondhand_f1"].value == pytest.approx(2 * 1 / (2 * 1 + 1 + 3))


def test_a_catalogue_without_brands_has_no_figures_of_them(make_run: MakeRun) -> None:
    run = make_run(records=[record(0, text='{"category": "A"}')], metas=[{"answer": '{"category": "A"}'}])
    assert set(HierarchicalF1().compute(run)) == {"hierarchical_f1", "category_parsed"}
