"""What was requested, what the pipeline says and what was seen of the model, by hand: a check differs where one of them does."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from metrics.base import Run
from metrics.validity.effective_settings import checks
from tests.conftest import record

MakeRun = Callable[..., Run]

SEEN = {
    "weights": {"model": {"float32": 900}, "head": {"float32": 100}},
    "attention": ["sdpa"],
    "compiled": 0,
    "packages": {"torch": "2.9.0"},
}
RANK: dict[str, Any] = {
    "rank": 0,
    "requested": {},
    "effective": {"dtype": "float32", "attention": "sdpa", "quantisation": "none", "compiled": "off"},
    "fallbacks": [],
    "found": SEEN,
    "found_after": SEEN,
}


def _rank(**changes: Any) -> dict[str, Any]:
    """A sound rank with these values put in; `a__b=value` is under a, then b, and None takes it out."""
    rank = copy.deepcopy(RANK)
    for path, value in changes.items():
        *outer, last = path.split("__")
        place = rank
        for key in outer:
            place = place[key]
        place[last] = value
    return rank


def _differing(make_text_run: MakeRun, *ranks: dict[str, Any], options: dict[str, Any] | None = None, **config: Any) -> list[str]:
    """Names of the checks that differ, of a run whose pipeline got these options."""
    run = make_text_run([record(0)], pipeline={"name": "toy_llm", **(options or {})}, **config)
    return [c.name for c in checks(replace(run, outcome={"performance": {"ranks": list(ranks)}})) if c.result == "differs"]


def test_a_sound_rank_differs_in_nothing(make_text_run: MakeRun) -> None:
    assert _differing(make_text_run, _rank()) == []
    options = {"dtype": "float32", "attention": "sdpa", "quantisation": "none", "compile": False}
    assert _differing(make_text_run, _rank(), _rank(rank=1), options=options) == []


@pytest.mark.parametrize(
    ("options", "changes", "name"),
    [
        ({"dtype": "bfloat16"}, {}, "dtype"),
        ({"attention": "eager"}, {}, "attention"),
        ({"quantization": "int8"}, {}, "quantisation"),
        ({"compile": True}, {}, "compile"),
        ({"cache": "first_block"}, {"effective__cache": "none"}, "cache"),
        ({}, {"effective__dtype": "bfloat16", "requested__dtype": "float32"}, "dtype"),
        ({}, {"effective_after": {}}, None),
        ({}, {"effective_after": {**RANK["effective"], "max_batch": "4"}}, "option"),
        ({}, {"effective_after": {**RANK["effective"], "dtype": "float16"}}, "option"),
        ({}, {"fallbacks": ["compile: no compiler here"]}, "compile"),
        ({}, {"fallbacks": ["something else"]}, "option"),
    ],
)
def test_what_the_pipeline_says_is_compared_with_what_was_requested(
    make_text_run: MakeRun, options: dict[str, Any], changes: dict[str, Any], name: str | None
) -> None:
    assert _differing(make_text_run, _rank(**changes), options=options) == ([name] if name else [])


@pytest.mark.parametrize("when", ["found", "found_after"])
@pytest.mark.parametrize(
    ("what", "value", "name"),
    [
        ("weights", {"model": {"float32": 451, "bfloat16": 449}, "head": {"float32": 100}}, None),
        ("weights", {"model": {"float32": 449, "bfloat16": 451}, "head": {"float32": 100}}, "dtype"),
        ("weights", {"model": {"float32": 901}, "head": {"bfloat16": 99}}, None),  # less than a tenth: kept in a dtype of its own
        ("weights", {"model": {"float32": 900}, "head": {"bfloat16": 100}}, "dtype"),
        ("weights", {"model": {"float32": 950, "int8": 50}}, None),  # a twentieth may be positions and the like
        ("weights", {"model": {"float32": 949, "int8": 51}}, "quantisation"),
        ("attention", ["eager"], "attention"),
        ("attention", ["eager", "sdpa"], None),
        ("attention", ["sdpa_paged"], None),
        ("attention", ["paged|sdpa"], None),
        ("attention", [], None),
        ("compiled", 1, "compile"),
    ],
)
def test_what_was_seen_of_the_model_is_compared_with_what_the_pipeline_says(
    make_text_run: MakeRun, when: str, what: str, value: Any, name: str | None
) -> None:
    assert _differing(make_text_run, _rank(**{f"{when}__{what}": value})) == ([name] if name else [])


@pytest.mark.parametrize(("said", "int8", "differs"), [("int8", 50, True), ("int8", 51, False), ("int8, rounded", 0, False)])
def test_quantised_weights_are_seen_as_such(make_text_run: MakeRun, said: str, int8: int, differs: bool) -> None:
    weights = {"model": {"float32": 1000 - int8, "int8": int8}}
    rank = _rank(effective__quantisation=said, found__weights=weights, found_after__weights=weights)
    assert _differing(make_text_run, rank, options={"quantisation": "int8"}) == (["quantisation"] if differs else [])


@pytest.mark.parametrize(("said", "differs"), [("tensor 2", False), ("tensor 4", True), ("tensor 22", True), (None, True)])
def test_every_axis_requested_is_named(make_text_run: MakeRun, said: str | None, differs: bool) -> None:
    rank = _rank(**({} if said is None else {"effective__parallel": said}))
    assert _differing(make_text_run, rank, parallel={"tensor": 2}) == (["parallel"] if differs else [])


@pytest.mark.parametrize(
    ("version", "require", "differs"),
    [
        ("2.9.0", {"torch": ">=2.9"}, False),
        ("2.9.0", {"torch": ">=2.10"}, True),
        ("2.9.1", {}, True),
        ("2.9.0", {"none-such": ">=1"}, True),
    ],
)
def test_packages_are_those_required_and_the_same_everywhere(
    make_text_run: MakeRun, version: str, require: dict[str, str], differs: bool
) -> None:
    found = {"found__packages": {"torch": version}, "found_after__packages": {"torch": version}}
    assert _differing(make_text_run, _rank(), _rank(rank=1, **found), require=require) == (["packages"] if differs else [])


@pytest.mark.parametrize(
    ("requested", "timed", "untimed", "differs"),
    [(4, 4, 4, False), (4, 3, 3, True), (None, 3, 4, True), (None, 4, 3, False), (4, 5, 5, False)],
)
def test_no_answer_is_made_in_fewer_steps(make_text_run: MakeRun, requested: int | None, timed: int, untimed: int, differs: bool) -> None:
    options = {} if requested is None else {"num_inference_steps": requested}
    run = make_text_run([record(0, step_s=[0.1] * 6), record(1, step_s=[0.1] * timed)], pipeline={"name": "toy_llm", **options})
    outcome = {"performance": {"ranks": [_rank()], "replays": [{"num_steps": 6}, {"num_steps": untimed}]}}
    results = {c.name: c.result for c in checks(replace(run, outcome=outcome))}
    assert results["steps"] == ("differs" if differs else "holds")


def test_a_difference_is_allowed_by_name_alone(make_text_run: MakeRun) -> None:
    run = make_text_run([record(0)], pipeline={"name": "toy_llm", "dtype": "bfloat16", "attention": "eager"}, allow_fallback=["dtype"])
    results = {c.name: c.result for c in checks(replace(run, outcome={"performance": {"ranks": [_rank()]}}))}
    assert (results["dtype"], results["attention"], results["steps"]) == ("allowed", "differs", "not made")


def test_without_a_rank_nothing_is_checked(make_text_run: MakeRun) -> None:
    assert {c.result for c in checks(make_text_run([record(0)]))} == {"not made"}
