"""Chat and completions over toy pipelines, as a client sees them."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Sequence
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from pipelines.base import Event
from pipelines.toy.llm import ToyLLM, solve
from pipelines.toy.vlm import ToyVLM
from tests.pipelines.serving.serving_client import PROMPT, Limited, chat, post, with_client
from workloads.vlm import VisionLanguage


def test_a_response_has_the_pipelines_answer_and_token_counts() -> None:
    status, body = with_client(ToyLLM(), lambda client: post(client, chat()))
    assert status == 200
    choice = body["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (solve(PROMPT), "stop")
    words, prompt_words = len(solve(PROMPT).split()) + 1, len(PROMPT.split())
    assert body["usage"] == {"prompt_tokens": prompt_words, "completion_tokens": words, "total_tokens": prompt_words + words}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_stream_sends_the_answer_word_by_word_as_it_is_made(path: str) -> None:
    async def stream(client: TestClient[Any, Any]) -> tuple[list[Any], list[float]]:
        body = (chat() if "chat" in path else {"prompt": PROMPT}) | {"stream": True, "stream_options": {"include_usage": True}}
        async with client.post(path, json=body) as answer:
            assert answer.content_type == "text/event-stream"
            lines, times = [], []
            async for line in answer.content:
                if line.strip():
                    lines.append(line.decode().removeprefix("data: ").strip())
                    times.append(time.perf_counter())
            return lines, times

    lines, times = with_client(ToyLLM(token_s=0.03), stream)
    assert lines.pop() == "[DONE]"
    chunks = [json.loads(line) for line in lines]
    pieces = [c["choices"][0]["delta"].get("content", "") if "chat" in path else c["choices"][0]["text"] for c in chunks[:-1]]
    assert "".join(pieces) == solve(PROMPT)
    assert sum(map(bool, pieces)) >= 3  # on a busy machine some words come together
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["usage"]["completion_tokens"] == len(solve(PROMPT).split()) + 1
    assert times[-1] - times[0] > 0.03


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        (chat(model="tox"), "model", "did you mean 'toy'"),
        (chat(temperature=0.7), "temperature", "--set pipeline.do_sample=true --set pipeline.temperature=0.7"),
        (chat(max_tokens="many"), "max_tokens", "whole number"),
        (chat(n=0), "n", "from 1 to 128"),
        (chat(logprobs=True), "logprobs", "does not support"),
        (chat(ignore_eos=True), "ignore_eos", "does not support"),
        (chat(min_tokens=4), "min_tokens", "does not support"),
        (chat(stop=["\n"]), "stop", "does not support"),
        (chat(seed=-1), "seed", "whole number"),
        (chat(stream="yes"), "stream", '"stream": true'),
        ({"messages": []}, "messages", "list of messages"),
        ({"messages": [{"role": "system", "content": "rhyme"}, {"role": "user", "content": "x"}]}, "messages", "pipeline.system_prompt"),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}, "messages", "the user's"),
        (
            {"messages": [{"role": role, "content": "x"} for role in ("user", "assistant", "user")]},
            "messages",
            "not a conversation",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]}, "messages", "known: text"),
    ],
)
def test_an_unsupported_field_is_refused_with_the_fix(body: Any, param: str, message: str) -> None:
    status, reply = with_client(Limited(), lambda client: post(client, body))
    assert status in (400, 404)
    assert reply["error"]["param"] == param
    assert message in reply["error"]["message"]


def test_a_field_that_equals_the_effective_setting_is_accepted() -> None:
    more: dict[str, Any] = {"temperature": 0, "top_p": 0.9, "max_tokens": 64, "n": 1, "stop": None, "seed": 7, "user": "me"}
    body = chat(**more)
    body["messages"].insert(0, {"role": "system", "content": "be brief"})
    assert with_client(Limited(), lambda client: post(client, body))[0] == 200


def test_bare_prompts_are_refused_where_there_is_a_chat_template() -> None:
    status, reply = with_client(Limited(), lambda client: post(client, {"prompt": "x"}, "/v1/completions"))
    assert status == 400
    assert "pipeline.chat=false" in reply["error"]["message"]


def test_invalid_json_and_unknown_paths_get_openais_errors() -> None:
    async def send_badly(client: TestClient[Any, Any]) -> list[Any]:
        text = await client.post("/v1/chat/completions", data="{", headers={"Content-Type": "application/json"})
        form = await client.post("/v1/chat/completions", data="{}")
        nowhere = await client.get("/v1/nowhere")
        return [(a.status, (await a.json())["error"]["message"]) for a in (text, form, nowhere)]

    replies = with_client(ToyLLM(), send_badly)
    assert [status for status, _ in replies] == [400, 400, 404]
    for (_, message), words in zip(replies, ("is not JSON", "Content-Type: application/json", "/v1/models"), strict=True):
        assert words in message


def test_a_failure_in_the_middle_of_a_stream_is_sent_in_it() -> None:
    class Breaking(ToyLLM):
        def step(self, timeout_s: float) -> Sequence[Event]:
            if any(one.begun for one in self._running):
                self._running.clear()
                raise RuntimeError("out of memory")
            return super().step(timeout_s)

    async def stream(client: TestClient[Any, Any]) -> str:
        async with client.post("/v1/chat/completions", json=chat(stream=True)) as answer:
            assert answer.status == 200
            return (await answer.read()).decode().strip().splitlines()[-1]

    chunk = json.loads(with_client(Breaking(token_s=0.03), stream).removeprefix("data: "))
    assert chunk["error"]["message"] == "RuntimeError: out of memory"


@pytest.mark.feature("serve", "images")
def test_images_are_data_urls_and_nothing_is_fetched() -> None:
    sample = VisionLanguage(num_prompts=1).samples()[0]
    urls = [f"data:image/png;base64,{base64.b64encode(image).decode()}" for image in sample.images]

    def body(urls: Sequence[str]) -> dict[str, Any]:
        parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        return {"messages": [{"role": "user", "content": [*parts, {"type": "text", "text": sample.prompt}]}]}

    status, reply = with_client(ToyVLM(), lambda client: post(client, body(urls)))
    assert (status, reply["choices"][0]["message"]["content"]) == (200, sample.meta["answer"])
    status, reply = with_client(ToyVLM(), lambda client: post(client, body(["http://127.0.0.1/cat.png"])))
    assert status == 400
    assert "data: URLs" in reply["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_for_several_answers_gets_them_by_number(stream: bool) -> None:
    async def ask(client: TestClient[Any, Any]) -> str:
        body = chat(n=2, max_tokens=2, seed=1, stream=stream, stream_options={"include_usage": True} if stream else None)
        async with client.post("/v1/chat/completions", json=body) as answer:
            assert answer.status == 200
            return await answer.text()

    text, words = with_client(ToyLLM(), ask), solve(PROMPT).split()[:2]
    if not stream:
        choices = json.loads(text)["choices"]
        answers, usage = {c["index"]: c["message"]["content"] for c in choices}, json.loads(text)["usage"]
        reasons = [c["finish_reason"] for c in choices]
    else:
        chunks = [json.loads(line.removeprefix("data: ")) for line in text.split("\n\n") if line and "DONE" not in line]
        choices, usage, answers = [c["choices"][0] for c in chunks[:-1]], chunks[-1]["usage"], {0: "", 1: ""}
        for choice in choices:
            answers[choice["index"]] += choice["delta"].get("content", "")
        reasons = [c["finish_reason"] for c in choices if c["finish_reason"]]
    assert [answers[i].split() for i in (0, 1)] == [words, words]
    assert (usage["completion_tokens"], reasons) == (4, ["length", "length"])


def test_an_unknown_field_is_warned_of() -> None:
    async def ask(client: TestClient[Any, Any]) -> tuple[int, str]:
        async with client.post("/v1/chat/completions", json=chat(max_token=16) | {'a"\r\nb': 1}) as answer:
            return answer.status, answer.headers["Warning"]

    status, warning = with_client(Limited(), ask)
    assert status == 200
    assert "unknown field 'max_token' (did you mean 'max_tokens'?) is ignored" in warning
    assert warning.count("299 triptych") == 2
