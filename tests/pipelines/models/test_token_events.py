"""Events of engines' updates: texts that end an answer, and queries that are given up."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pipelines.base import Event, QueryOptions
from pipelines.models.token_events import TokenEvents, Update


class Letters:
    """A tokenizer whose tokens are letters; 0 is the end token."""

    def decode(self, tokens: Sequence[int], skip_special_tokens: bool) -> str:
        return "".join(chr(t) for t in tokens if t)

    def get_vocab(self) -> dict[str, int]:
        return {"a": 97, "bcd": 98}


def stream(text: str, options: QueryOptions, end: bool = False) -> tuple[list[str], list[Event], TokenEvents]:
    """The texts of events while an answer grows, and its last events."""
    events = TokenEvents(Letters(), {0}, True)
    assert events.admit(1, 3, 100, options)
    tokens, texts, last = [*map(ord, text), *([0] if end else [])], list[str](), list[Event]()
    for n in range(1, len(tokens) + 1):
        last = events.events(Update(1, tokens[:n], [0.1 * i for i in range(n)], end and n == len(tokens)))
        texts += [event.text for event in last if event.text]
        if last and last[-1].response is not None:
            break
    return texts, last, events


@pytest.mark.parametrize(
    ("text", "options", "answer", "num_tokens", "reason"),
    [
        ("one. two", QueryOptions(stop=(". t",)), "one", 6, "stop"),
        ("one. two", QueryOptions(stop=("xx", ". ")), "one", 5, "stop"),
        ("one. two. ", QueryOptions(stop=(". ",), min_new_tokens=5), "one. two", 10, "stop"),
        ("one.", QueryOptions(stop=(". ",)), "one.", 5, "stop"),
        ("one.", QueryOptions(ignore_eos=True), "one.", 5, "length"),
    ],
)
def test_the_answer_ends_where_a_text_of_stop_begins(text: str, options: QueryOptions, answer: str, num_tokens: int, reason: str) -> None:
    texts, last, events = stream(text, options, end=True)
    response = last[-1].response
    assert response is not None
    assert "".join(texts) == response.text == answer
    assert (response.num_units, response.finish_reason) == (num_tokens, reason)
    assert events.stopped() == ([1] if len(text) >= num_tokens else [])


def test_a_query_that_was_given_up_has_no_more_events() -> None:
    _, _, events = stream("on", QueryOptions())
    assert events.forget(1)
    assert events.events(Update(1, [111, 110, 101], [0, 1, 2], True)) == []
    assert not events.forget(1)


def test_a_text_that_no_context_can_hold_is_refused_before_it_is_tokenised() -> None:
    events = TokenEvents(Letters(), {0}, True)
    assert not events.is_too_long(1, 90, 10)  # 10 tokens of 3 characters, 3 times as many before normalisation
    assert events.is_too_long(2, 91, 10)
    (refused,) = events.refusals()
    assert refused.response is not None
    assert refused.response.error == "the prompt has 91 characters, which no 10 tokens of the context can hold"
