"""What answers say of themselves, compared with their files, token ids and known words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from metrics.base import Run
from metrics.validity.answer_counts import checks
from metrics.validity.check import Check
from tests.conftest import record
from workloads.records import Sample

MakeRun = Callable[..., Run]


def made(run: Run) -> dict[str, Check]:
    return {check.name: check for check in checks(run)}


def test_a_video_counts_the_frames_of_its_file(make_run: MakeRun) -> None:
    run = make_run([np.zeros((9, 16, 16, 3), np.uint8), np.zeros((5, 16, 16, 3), np.uint8)])
    assert made(run)["num_units"] == Check("num_units", "holds", "2 videos have as many frames as they count")
    wrong = replace(run, records=[run.records[0], msgspec.structs.replace(run.records[1], num_units=50)])
    check = made(wrong)["num_units"]
    assert (check.result, check.message) == (
        "differs",
        "1 of 2 videos do not have as many frames as they count: query 1 counts 50, its file has 5",
    )


@pytest.mark.parametrize(
    ("counted", "result", "message"),
    [
        ({"token_ids": 8}, "holds", "8 texts agree with their token ids"),
        ({"token_ids": 4, "tokenizer": 4}, "holds", "4 texts agree with their token ids; 4 texts agree with what a tokenizer counts"),
        ({"token_ids": 7, "nothing": 1}, "not made", "1 of 8 texts have no token ids, and the pipeline has no tokenizer to count with"),
        ({"token_ids": 6, "thoughts": 2}, "not made", "2 of 8 texts count thoughts beside them, which are not kept"),
        ({}, "not made", "no rank reported what the counts of its answers were compared with"),
    ],
)
def test_tokens_that_nothing_was_held_against_are_not_checked(
    make_run: MakeRun, counted: dict[str, int], result: str, message: str
) -> None:
    run = replace(make_run(records=[record(0, text="yes")]), outcome={"performance": {"ranks": [{"rank": 0, "counted": counted}]}})
    check = made(run)["num_units"]
    assert (check.result, check.message.startswith(message)) == (result, True), check.message


@pytest.mark.parametrize(
    ("reasons", "result", "message"),
    [
        (["stop", "stop", "length"], "holds", "2 answers ended by stop, 1 answers ended by length"),
        (["stop", None], "holds", "1 answers ended by stop, 1 answers ended by nothing that is reported"),
        (["abort", "abort"], "differs", "2 of 2 answers ended by 'abort'"),
        (["stop", "content_filter", "tool_calls"], "differs", "1 of 3 answers ended by 'content_filter'"),
        (["stop", "tool_calls", "eos_token"], "not made", "2 of 3 answers ended by 'eos_token', 'tool_calls': whether they are whole"),
        ([None], "not made", "the pipeline does not report how its answers ended"),
    ],
)
def test_how_answers_ended_is_known_or_shown(make_run: MakeRun, reasons: list[Any], result: str, message: str) -> None:
    run = make_run(records=[record(i, text="yes", finish_reason=reason) for i, reason in enumerate(reasons)])
    check = made(run)["finish_reason"]
    assert (check.result, check.message.startswith(message)) == (result, True), check.message


@pytest.mark.parametrize(
    ("num_tokens", "result", "message"),
    [
        ((1000, 1200), "holds", "2 prompts have as many tokens as their words and bytes allow"),
        ((500, 500), "holds", "2 prompts"),
        ((499, 1000), "differs", "1 of 2 prompts were cut short: query 0 has 1000 words in its prompt and 499 tokens"),
        ((9096, 1000), "holds", "2 prompts"),  # 5,000 bytes and a chat template
        ((9097, 1000), "differs", "1 of 2 prompts are counted too long: query 0 has 5000 bytes in its prompt and 9097 tokens"),
        ((0, 0), "not made", "the pipeline reports no tokens of prompts"),
    ],
)
def test_prompts_that_were_cut_short_or_counted_twice_show(
    make_text_run: MakeRun, num_tokens: tuple[int, int], result: str, message: str
) -> None:
    run = make_text_run([record(i, text="yes", num_input_tokens=n) for i, n in enumerate(num_tokens)])
    run = replace(run, samples=[Sample(i, "word " * 1000) for i in range(2)])
    check = made(run)["num_input_tokens"]
    assert (check.result, check.message.startswith(message)) == (result, True), check.message


@pytest.mark.parametrize(
    ("references", "texts", "result"),
    [
        (["red", "blue"] * 8, ["red"] * 16, "differs"),
        (["red", "blue"] * 8, ["red"] * 15 + ["blue"], "holds"),
        (["red", "blue"] * 7, ["red"] * 14, "not made"),  # too few
        (["no"] * 15 + ["yes"], ["no"] * 16, "not made"),  # a model may well say no alone
        (["no"] * 16, ["no"] * 16, "not made"),
    ],
)
def test_one_answer_to_a_question_about_many_images_is_blind(
    make_text_run: MakeRun, references: list[str], texts: list[str], result: str
) -> None:
    run = make_text_run([record(i, text=text) for i, text in enumerate(texts)])
    samples = [Sample(i, "what colour?", {"answer": answer}, (bytes([i]),)) for i, answer in enumerate(references)]
    assert made(replace(run, samples=samples))["images"].result == result
    without = [replace(sample, images=()) for sample in samples]
    assert made(replace(run, samples=without))["images"].result == "not made"
