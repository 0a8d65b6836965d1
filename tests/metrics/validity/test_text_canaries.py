from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from metrics.base import Run
from metrics.validity.canaries import TEXT_CANARIES, VIDEO_CANARIES, canaries_for, failures, loosened, scan
from metrics.validity.text_canaries import REPLACEMENT, check_text
from tests.conftest import record
from workloads.world.language import TASKS, draw_item

MakeRun = Callable[..., Run]


@pytest.mark.parametrize(
    "text",
    [
        "3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31",
        "100, 110, 120, 130, 140, 150, 160, 170, 180, 190.",
        "1. red square\n2. red square\n3. red square\n4. red square\n5. red square\n6. red square",
        "a red square, a red square, a red square.",
        "[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]",
        "ha ha ha",
        "x",
        "----------",
        "caf\u00e9, \u4f60\u597d, \U0001f600",
    ],
)
def test_a_sound_text_triggers_nothing(text: str) -> None:
    assert check_text(text) == []


def test_no_answer_of_the_world_triggers_a_canary() -> None:
    rng = np.random.default_rng(0)
    for i in range(300):
        item = draw_item(rng, TASKS[i % len(TASKS)])
        assert check_text(item.answer) == [], item.answer


@pytest.mark.parametrize(
    "text",
    [
        "the the the the the the the the the the the",
        "red, then blue, red, then blue, red, then blue, red, then blue, red, then blue, red, then blue, re",
        "Sure. " + "I do not know what to say. " * 5,
        "!" * 64,
        "ok\n" + "\n- item" * 10 + ".",
    ],
)
def test_a_unit_repeated_to_the_end_loops(text: str) -> None:
    assert check_text(text) == ["looping"]


@pytest.mark.parametrize(
    ("unit", "times", "loops"),
    [
        (1, 32, True),
        (1, 31, False),  # 32 characters at least
        (23, 6, True),
        (23, 5, False),
        (24, 4, True),
        (24, 3, False),
        (200, 4, True),
        (201, 4, False),
    ],
)
def test_how_often_a_unit_must_be_repeated_depends_on_its_length(unit: int, times: int, loops: bool) -> None:
    text = "".join(chr(0x4E00 + i) for i in range(unit)) * times
    assert check_text(text) == (["looping"] if loops else [])


def test_a_loop_that_ends_before_the_text_is_none() -> None:
    assert check_text("ha " * 20 + "and so on until the joke was over.") == []


def test_bytes_that_are_not_utf8_trigger_but_half_a_character_at_the_limit_does_not() -> None:
    assert check_text(f"a{REPLACEMENT}b") == ["utf8"]
    assert check_text(f"a{REPLACEMENT}") == ["utf8"]
    assert check_text(f"a{REPLACEMENT}", was_cut=True) == []
    assert check_text(f"a{REPLACEMENT}b", was_cut=True) == ["utf8"]
    assert check_text("a\ud800") == check_text("a\udfff") == ["utf8"]


@pytest.mark.parametrize("text", ["", " \n\t", "\u200b\u200d \ufeff\u2060", "\u3164\u2800", "\x00\x1b"])
def test_a_text_without_a_visible_character_is_empty(text: str) -> None:
    assert check_text(text) == ["empty"]


def failed(run: Run) -> dict[str, list[int]]:
    """The numbers of the queries whose answers fail the run."""
    return {name: [int(label.removeprefix("query ")) for label in labels] for name, labels in failures(run, scan(run)).items()}


def test_an_empty_answer_triggers_unless_it_is_the_expected_one(make_text_run: MakeRun) -> None:
    records = [record(i, text="") for i in range(2)] + [record(2, text=None)]
    assert failed(make_text_run(records, [{"answer": ""}, {"answer": "red"}, {}])) == {"empty": [1, 2]}


@pytest.mark.parametrize(("num_loops", "triggers"), [(5, False), (6, True)])
def test_loops_trigger_beyond_the_tolerated_share(make_text_run: MakeRun, num_loops: int, triggers: bool) -> None:
    records = [record(i, text="no " * 30 if i < num_loops else f"answer {i}") for i in range(100)]
    run = make_text_run(records)
    assert sum(names == ["looping"] for names in scan(run).values()) == num_loops
    assert ("looping" in failed(run)) is triggers


@pytest.mark.parametrize(("num_cut", "triggers"), [(5, False), (6, True)])
def test_answers_cut_off_trigger_when_most_are(make_text_run: MakeRun, num_cut: int, triggers: bool) -> None:
    records = [record(i, text=f"answer {i}", finish_reason="length" if i < num_cut else "stop") for i in range(10)]
    assert failed(make_text_run(records)) == ({"cut_off": list(range(6))} if triggers else {})


@pytest.mark.parametrize(("num_cut", "triggers"), [(5, False), (6, True)])
def test_a_limit_that_is_not_reported_shows_in_the_lengths(make_text_run: MakeRun, num_cut: int, triggers: bool) -> None:
    """Answers that end in the middle of a sentence at one length, which no answer exceeds."""
    records = [record(i, text=f"number {i} and", num_units=16 if i < num_cut else 15, finish_reason="stop") for i in range(10)]
    assert failed(make_text_run(records)) == ({"cut_off": list(range(6))} if triggers else {})
    whole = [record(i, text=f"number {i} is it.", num_units=16) for i in range(10)]
    assert failed(make_text_run(whole)) == {}


PROMPT = "say in a few words what you can see here"


@pytest.mark.parametrize(
    ("before", "after", "triggers"),
    [
        ("", "\nA red disc.", True),
        ("user\n", "\nassistant\nA red disc.", True),  # a chat template
        ("It is asked for this: " * 20, "", False),  # quoted somewhere
        ("", None, False),
    ],
)
def test_an_answer_that_begins_with_its_prompt_is_an_echo(make_text_run: MakeRun, before: str, after: str | None, triggers: bool) -> None:
    text = "A red disc." if after is None else f"{before}{PROMPT}{after}"
    assert failed(make_text_run([record(0, text=text)], prompts=[PROMPT])) == ({"echo": [0]} if triggers else {})


def test_what_a_prompt_asks_to_be_repeated_is_no_echo(make_text_run: MakeRun) -> None:
    assert failed(make_text_run([record(0, text=PROMPT)], [{"answer": PROMPT}], prompts=[PROMPT])) == {}


def alike(*tokens: int) -> list[Any]:
    return [record(i, text="a long answer that says the same", num_units=n) for i, n in enumerate(tokens)]


def test_long_answers_alike_trigger_where_their_references_differ(make_text_run: MakeRun) -> None:
    assert failed(make_text_run(alike(12, 12), [{"answer": "a"}, {"answer": "b"}])) == {"identical": [0, 1]}
    assert failed(make_text_run(alike(12, 12), [{"answer": "a"}, {"answer": "a"}])) == {}


@pytest.mark.parametrize(("num_alike", "triggers"), [(5, False), (6, True)])
def test_answers_alike_trigger_beyond_the_tolerated_share(make_text_run: MakeRun, num_alike: int, triggers: bool) -> None:
    records = [*alike(*[12] * num_alike), *(record(i, text=f"answer {i}", num_units=12) for i in range(num_alike, 100))]
    assert failed(make_text_run(records)) == ({"identical": list(range(6))} if triggers else {})


def test_a_wrong_answer_that_is_right_for_another_prompt_does_not_trigger(make_text_run: MakeRun) -> None:
    assert failed(make_text_run(alike(12, 12), [{"answer": "a long answer that says the same"}, {"answer": "b"}])) == {}


def test_without_references_the_prompts_must_differ(make_text_run: MakeRun) -> None:
    assert failed(make_text_run(alike(12, 12))) == {"identical": [0, 1]}
    assert failed(make_text_run(alike(12, 12), prompts=["same", "same"])) == {}


@pytest.mark.parametrize(("share", "listed"), [(0.05, {}), (0.06, {"looping": "0.06"})])
def test_only_a_share_above_the_default_is_listed(make_text_run: MakeRun, share: float, listed: dict[str, str]) -> None:
    assert loosened(make_text_run([record(0)], canaries={"looping": share})) == listed


def test_short_answers_may_be_alike(make_text_run: MakeRun) -> None:
    assert failed(make_text_run(alike(11, 11), [{"answer": "a"}, {"answer": "b"}])) == {}


def test_each_kind_of_run_has_its_own_canaries(make_run: MakeRun, make_text_run: MakeRun) -> None:
    assert canaries_for(make_text_run([record(0)])) == TEXT_CANARIES
    assert canaries_for(make_run(records=[record(0)])) == VIDEO_CANARIES
    assert failed(make_text_run([record(0, text="ok", finite=False)])) == {"nan": [0]}
