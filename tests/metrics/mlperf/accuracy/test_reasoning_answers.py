"""Letters, numbers and programs in answers, read as MLPerf's graders read them."""

from __future__ import annotations

import pytest

from metrics.mlperf.accuracy.reasoning_answers import (
    aime_number,
    boxed,
    deepseek_letter,
    deepseek_program,
    final_part,
    gpt_oss_letter,
    gpt_oss_program,
)
from tests.metrics.mlperf.accuracy.conftest import final


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        (final("**C**"), "C"),
        (final("C) the third"), "C"),
        (final("The answer is clear.\n\nAnswer: b"), "B"),
        (final("Because of that.\n**Answer: D**"), "D"),
        (final("no letter at all here"), "A"),  # then the whole text counts, drafts too
        (final("E"), "A"),
        ("analysisPerhaps Answer: A.assistantfinalAnswer: B", "B"),  # decoded without special tokens
        ("finalAnswer: C", "C"),
        ("['ANSWER: C']", "C"),
        ("nothing", None),
        ("", None),
    ],
)
def test_a_letter_is_read_from_the_final_channel(text: str, letter: str | None) -> None:
    assert gpt_oss_letter(text, "ABCD") == letter


def test_a_letter_of_deepseek_is_the_last_one_announced() -> None:
    assert deepseek_letter("Answer: A? No. ANSWER: (c)", "ABCD", loose=False) == "C"
    assert deepseek_letter("FINAL ANSWER = D", "ABCD", loose=False) == "D"
    assert deepseek_letter("Answer: J.", "ABCDEFGHIJ", loose=True) == "J"
    assert deepseek_letter("It must be G", "ABCDEFGHIJ", loose=True) == "G"  # MMLU-Pro: any letter that stands alone
    assert deepseek_letter("It must be C", "ABCD", loose=False) is None


def test_numbers_and_boxes_are_the_last_ones() -> None:
    assert aime_number(r"\boxed{12} no, \boxed{ 034 }") == 34
    assert aime_number(r"Answer: 5 and answer: 73") == 73
    assert aime_number(r"\boxed{1000}") is None
    assert aime_number(r"\boxed{x}") is None
    assert boxed(r"\boxed{1} so \boxed{\frac{1}{2}} done") == r"\frac{1}{2}"
    assert boxed(r"\boxed{never closed") is None
    assert final_part("no channels") == "no channels"


def test_programs_are_read_as_each_model_s_grader_reads_them() -> None:
    two = "```python\nfirst\n```\ntext\n```python\nsecond\n```"
    assert gpt_oss_program(final(two)) == "second"
    assert gpt_oss_program(final("```\npy\nplain\n```")) == "plain"
    assert gpt_oss_program("```python\ndraft\n```<|channel|>final<|message|>no code") == "draft"
    assert deepseek_program(two) == "first"
    assert deepseek_program("```\nplain\n```") is None
