"""The engine of a server: batches, streams, failures and its end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any

from aiohttp.test_utils import TestClient

from pipelines.serving.engine import Engine, Question
from pipelines.toy.llm import ToyLLM, solve
from tests.pipelines.serving.serving_client import PROMPT, Recorder, chat, post, with_client
from workloads.records import Query, Sample


def test_streams_run_side_by_side() -> None:
    async def eight(client: TestClient[Any, Any]) -> float:
        began = time.perf_counter()
        answers = await asyncio.gather(*(post(client, chat()) for _ in range(8)))
        assert all(status == 200 for status, _ in answers)
        return time.perf_counter() - began

    one_s = 0.03 * len(solve(PROMPT).split())
    assert with_client(ToyLLM(token_s=0.03), eight) < 4 * one_s


def test_waiting_queries_form_batches_without_those_of_clients_that_left() -> None:
    pipeline = Recorder()

    async def six(client: TestClient[Any, Any]) -> list[Any]:
        first = asyncio.create_task(post(client, chat("0")))
        while not pipeline.batches:
            await asyncio.sleep(0.005)
        gone = asyncio.create_task(post(client, chat("gone")))
        rest = [asyncio.create_task(post(client, chat(str(i)))) for i in range(1, 6)]
        await asyncio.sleep(0.1)
        gone.cancel()
        await asyncio.sleep(0.1)
        pipeline.gate.set()
        return [(await task)[1]["choices"][0]["message"]["content"] for task in (first, *rest)]

    assert with_client(pipeline, six) == ["0", "1", "2", "3", "4", "5"]
    assert [len(batch) for batch in pipeline.batches] == [1, 4, 1]
    assert not any("gone" in batch for batch in pipeline.batches)


def test_a_failed_query_is_an_error_and_the_server_continues() -> None:
    pipeline = Recorder()
    pipeline.gate.set()

    async def three(client: TestClient[Any, Any]) -> list[Any]:
        return [await post(client, chat(prompt)) for prompt in ("break", "long", "fine")]

    broken, refused, fine = with_client(pipeline, three)
    assert (broken[0], broken[1]["error"]["message"]) == (500, "RuntimeError: out of memory")
    assert (refused[0], refused[1]["error"]["message"]) == (400, "too long")
    assert fine[0] == 200


def test_a_closed_engine_fails_the_queries_that_wait() -> None:
    pipeline, events = Recorder(), list[Any]()
    engine = Engine(pipeline)
    for prompt in "ab":
        engine.ask(Question(prompt, 1), events.append)
        while not pipeline.batches:
            time.sleep(0.005)
    threading.Timer(0.05, pipeline.gate.set).start()
    engine.close()
    assert [getattr(getattr(t, "response", None), "text", str(t)) for t in events] == ["a", "the server is being stopped"]


def test_a_query_whose_client_left_is_cancelled_in_the_engine() -> None:
    pipeline = ToyLLM(token_s=0.5)

    async def leave(client: TestClient[Any, Any]) -> int:
        answer = await client.post("/v1/chat/completions", json=chat(stream=True))
        await answer.content.readline()
        assert len(pipeline._running) == 1
        answer.close()
        give_up = time.perf_counter() + 5
        while pipeline._running and time.perf_counter() < give_up:
            await asyncio.sleep(0.01)
        return len(pipeline._running)

    assert with_client(pipeline, leave) == 0


def test_a_query_that_the_pipeline_cannot_take_fails_alone() -> None:
    class Picky(ToyLLM):
        def submit(self, samples: Sequence[Sample], queries: Sequence[Query]) -> None:
            if "\N{SNOWMAN}" in samples[0].prompt:
                raise TypeError("TextEncodeInput must be str")
            super().submit(samples, queries)

    async def three(client: TestClient[Any, Any]) -> list[Any]:
        return [status for status, _ in await asyncio.gather(*(post(client, chat(p)) for p in (PROMPT, "a \N{SNOWMAN}", PROMPT)))]

    assert with_client(Picky(token_s=0.02), three) == [200, 500, 200]
