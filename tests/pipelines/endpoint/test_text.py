"""Texts from a server: streams, counts of tokens, what is sent, and what goes wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pipelines.base import Event
from pipelines.endpoint.pipeline import Endpoint
from pipelines.models.embedded import LANGUAGE
from pipelines.models.response_check import ResponseCheck
from tests.pipelines.endpoint.fault_server import FaultServer, ask
from workloads.records import Query, Sample

PNG = b"\x89PNG and the rest"


@pytest.mark.feature("endpoint", "chat, streamed, token times")
def test_an_answer_has_its_text_tokens_gaps_and_stages(loaded: Callable[..., Endpoint]) -> None:
    (response,) = ask(loaded(), "fine")
    assert response.error is None
    assert (response.text, response.finish_reason) == ("one two three", "stop")
    assert (response.num_input_tokens, response.num_units) == (5, 4)
    assert len(response.token_gap_s) == 3  # three deltas, and the end token
    assert response.stages.keys() == {"client_queue", "first_token", "further_tokens", "after_answer"}
    assert 0.02 < response.stages["further_tokens"] < 5


@pytest.mark.feature("endpoint", "faults: 429, 500, cut, malformed and endless streams")
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("429", "status 429 Too Many Requests: come back later"),
        ("500", "status 500 Internal Server Error: come back later"),
        ("cut", "cut"),
        ("ends early", "the stream was cut after 3 deltas"),
        ("malformed", "malformed server-sent event"),
        ("error inside", "an error in the stream: out of memory"),
        ("no usage", "the answer has no usage; count tokens with count_by"),
        ("not a stream", "but the answer is text/html"),
        ("usage 0", "its usage has completion_tokens 0 beside 3 deltas and 13 characters of text; count tokens with count_by: deltas"),
        ("usage -1", "its usage has prompt_tokens -1 beside 3 deltas"),
        ("usage text", "its usage has completion_tokens '4' beside 3 deltas"),
        ("usage list", "its usage has prompt_tokens None"),
        ("usage x10", "its usage has 640 completion_tokens in a text of 13 bytes"),
        ("many deltas", "its usage has 4 completion_tokens, and the stream 40 deltas with text"),
        ("only done", "the stream ended without a delta or a finish_reason"),
        ("not a chunk", "a server-sent event without choices: '{"),
        ("endless", "the answer did not end within 1 s (timeout_s)"),
    ],
)
def test_a_fault_fails_its_own_query_and_names_the_server(
    server: FaultServer, loaded: Callable[..., Endpoint], fault: str, message: str
) -> None:
    before, bad, after = ask(loaded(timeout_s=1), "fine", fault, "fine")
    assert before.text == after.text == "one two three"
    assert bad.text is None
    assert message in str(bad.error)
    assert server.url in str(bad.error)
    assert "client_queue" in bad.stages


@pytest.mark.parametrize("fault", ["usage 0", "usage -1", "usage text", "usage x10"])
def test_a_whole_answers_usage_is_checked_too(loaded: Callable[..., Endpoint], fault: str) -> None:
    assert "its usage has " in str(ask(loaded(stream=False), fault)[0].error)


@pytest.mark.parametrize("stream", [True, False])
def test_tokens_of_thoughts_that_a_server_keeps_count(loaded: Callable[..., Endpoint], stream: bool) -> None:
    assert [(r.error, r.num_units) for r in ask(loaded(stream=stream), "usage hidden")] == [(None, 640)]


@pytest.mark.parametrize(("fault", "num_units", "stage"), [("no token", 0, "whole_answer"), ("end token", 1, "first_token")])
def test_a_stream_without_text_has_no_time_that_never_was(loaded: Callable[..., Endpoint], fault: str, num_units: int, stage: str) -> None:
    (response,) = ask(loaded(), fault)
    assert (response.error, response.text, response.num_units) == (None, "", num_units)
    assert stage in response.stages
    assert all(0 <= seconds < 5 for seconds in response.stages.values())


def test_waiting_for_the_usage_is_not_part_of_the_answer(loaded: Callable[..., Endpoint]) -> None:
    (response,) = ask(loaded(), "late usage")
    assert response.stages["after_answer"] > 0.15  # the server waits for 0.3 s, of which a late client misses a part
    assert sum(response.token_gap_s) == pytest.approx(response.stages["further_tokens"])


@pytest.mark.parametrize(("fault", "num_deltas", "thoughts"), [("thoughts", 5, "well then"), ("tool call", 4, "add{")])
def test_thoughts_and_calls_of_tools_are_tokens(loaded: Callable[..., Endpoint], fault: str, num_deltas: int, thoughts: str) -> None:
    (by_usage,), (by_deltas,) = ask(loaded(), fault), ask(loaded(count_by="deltas"), fault)
    endpoint = loaded(count_by="tokenizer", tokenizer=str(LANGUAGE["embedded"]))
    (by_tokenizer,) = ask(endpoint, fault)
    assert (by_usage.num_units, by_deltas.num_units) == (4, num_deltas)
    assert by_tokenizer.num_units == sum(endpoint.count_tokens(text) or 0 for text in ("one two three", thoughts))
    assert ResponseCheck(endpoint).response(by_tokenizer, 5.0).error is None
    assert by_deltas.stages["first_token"] < by_deltas.stages["further_tokens"]  # it came before the text


def test_events_that_are_no_chunks_are_passed_over(loaded: Callable[..., Endpoint]) -> None:
    (response,) = ask(loaded(), "odd events")
    assert (response.error, response.text, response.num_units) == (None, "one two three", 4)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("reason", ["abort", "content_filter", "tool_calls"])
def test_the_servers_word_for_the_end_is_kept(loaded: Callable[..., Endpoint], stream: bool, reason: str) -> None:
    endpoint = loaded(stream=stream)
    endpoint.workload = "llm"
    (response,) = ask(endpoint, reason)
    assert response.finish_reason == reason
    checked = ResponseCheck(endpoint).response(response, 5.0)
    assert checked.error == (None if reason == "tool_calls" else f"pipeline 'endpoint': the answer ended with finish_reason {reason!r}")


def test_a_stream_without_done_is_whole_where_it_has_a_finish_reason(loaded: Callable[..., Endpoint]) -> None:
    assert ask(loaded(), "no done")[0].text == "one two three"


def test_the_first_token_is_an_event_and_its_wait_is_a_stage(loaded: Callable[..., Endpoint]) -> None:
    endpoint = loaded()
    endpoint.submit([Sample(0, "slow")], [Query(0, 0, 7)])
    first = endpoint.step(5.0)
    assert [(event.first_token_id, event.response) for event in first] == [(0, None)]
    events: list[Event] = []
    while not events:
        events += endpoint.step(1.0)
    assert events[0].response is not None
    assert events[0].response.stages["first_token"] >= 0.3


@pytest.mark.feature("endpoint", "token counts by usage, deltas or tokenizer")
@pytest.mark.parametrize(
    ("options", "count"),
    [({}, 4), ({"count_by": "deltas"}, 3), ({"count_by": "tokenizer", "tokenizer": str(LANGUAGE["embedded"])}, None)],
)
def test_tokens_are_counted_by_the_chosen_method(loaded: Callable[..., Endpoint], options: dict[str, Any], count: int | None) -> None:
    endpoint = loaded(**options)
    (response,) = ask(endpoint, "no usage" if options else "fine")
    assert response.num_units == (count or len(endpoint._load_tokenizer()("one two three", add_special_tokens=False)["input_ids"]))
    assert endpoint.count_tokens("one two three") == (response.num_units if endpoint.count_by == "tokenizer" else None)
    method = endpoint.effective()["token_counts"]
    assert {"usage": "the server's usage", "deltas": "deltas of the stream"}.get(endpoint.count_by, "tokenizer ") in method


def test_requests_contain_the_given_options_and_nothing_else(server: FaultServer, loaded: Callable[..., Endpoint]) -> None:
    ask(loaded(stream=False, count_by="usage"), "fine")
    assert server.bodies[-1] == {"model": "faulty", "messages": [{"role": "user", "content": "fine"}], "temperature": 0.0}
    more = {"temperature": 0.5, "top_p": 0.9, "top_k": 5, "max_new_tokens": 9, "extra": {"min_p": 0.1}, "api": "completions"}
    (response,) = ask(loaded(stream=False, **more), "fine")
    sent = {"temperature": 0.5, "top_p": 0.9, "top_k": 5, "max_tokens": 9, "min_p": 0.1, "seed": 7, "model": "faulty", "prompt": "fine"}
    assert server.bodies[-1] == sent
    assert (response.text, response.finish_reason) == ("one two three", "length")


@pytest.mark.feature("endpoint", "images")
def test_images_go_into_the_message_before_the_question(server: FaultServer, loaded: Callable[..., Endpoint]) -> None:
    endpoint = loaded(system_prompt="be brief")
    endpoint.generate([Sample(0, "what is it?", images=(PNG,))], [Query(0, 0, 7)])
    system, user = server.bodies[-1]["messages"]
    assert system == {"role": "system", "content": "be brief"}
    assert [part["type"] for part in user["content"]] == ["image_url", "text"]
    assert user["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")
