"""What holds for all routes: loading, unforeseen errors, facts, metrics and the log."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from pipelines.serving.app import make_app
from pipelines.serving.bodies import text
from pipelines.serving.engine import Engine
from pipelines.serving.observation import RequestLog
from pipelines.serving.state import ServerState
from pipelines.toy.llm import ToyLLM
from tests.pipelines.serving.serving_client import Recorder, chat, post, with_client


def test_while_the_model_is_loaded_requests_are_told_to_come_again() -> None:
    async def run() -> list[tuple[int, str | None, Any]]:
        async with TestClient(TestServer(make_app(ServerState(ToyLLM(), "toy", Path())))) as client:
            answers = [await client.get("/health"), await client.post("/v1/chat/completions", json=chat()), await client.get("/version")]
            return [(a.status, a.headers.get("Retry-After"), await a.json()) for a in answers]

    health, refused, version = asyncio.run(run())
    assert health == (503, "2", {"status": "loading"})
    assert (refused[0], refused[1], refused[2]["error"]["code"]) == (503, "2", "loading")
    assert version[0] == 200
    assert version[2]["version"]


def test_an_unforeseen_error_is_one_of_openais(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RecursionError

    monkeypatch.setattr(text, "_read_common", fail)
    status, body = with_client(ToyLLM(), lambda client: post(client, chat()))
    assert (status, body["error"]["message"]) == (400, "the body is nested too deeply")
    monkeypatch.setattr(text, "_read_common", lambda *_: 1 / 0)
    status, body = with_client(ToyLLM(), lambda client: post(client, chat()))
    assert (status, body["error"]["message"]) == (500, "ZeroDivisionError: division by zero")


def test_a_model_is_found_by_its_name() -> None:
    async def get(client: TestClient[Any, Any]) -> list[int]:
        return [(await client.get(f"/v1/models/{name}")).status for name in ("toy", "other/model")]

    assert with_client(ToyLLM(), get) == [200, 404]


def test_metrics_and_log_have_what_became_of_every_request(tmp_path: Path) -> None:
    pytest.importorskip("prometheus_client")
    log = RequestLog(tmp_path / "log.jsonl")
    pipeline = Recorder()
    pipeline.gate.set()

    async def run() -> str:
        engine = Engine(pipeline)
        state = ServerState(pipeline, "toy", tmp_path, engine)
        state.observers.calls.append(log)
        async with TestClient(TestServer(make_app(state))) as client:
            for body in (chat("hello"), chat("hello", stream=True), chat("long"), chat("break"), chat(seed=-1)):
                await (await client.post("/v1/chat/completions", json=body)).read()
            metrics = await (await client.get("/metrics")).text()
        await asyncio.to_thread(engine.close)
        return metrics

    metrics = asyncio.run(run())
    for line in (
        'triptych:requests_total{model_name="toy",status="done"} 2.0',
        'triptych:requests_total{model_name="toy",status="refused"} 2.0',
        'triptych:requests_total{model_name="toy",status="failed"} 1.0',
        'vllm:request_success_total{finished_reason="stop",model_name="toy"} 2.0',
        'vllm:generation_tokens_total{model_name="toy"} 2.0',
        'vllm:time_to_first_token_seconds_count{model_name="toy"} 2.0',
        'vllm:num_requests_running{model_name="toy"} 0.0',
    ):
        assert line in metrics
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(a.get("status", "done"), a.get("error")) for a in lines] == [
        ("done", None),
        ("done", None),
        ("refused", "too long"),
        ("failed", "RuntimeError: out of memory"),
        ("refused", "seed is -1; give a whole number from 0 to 2**63 - 1"),
    ]
    assert lines[1]["stream"] is True
    assert 0 < lines[1]["first_token_s"] <= lines[1]["done_s"]
    assert lines[1]["num_output_tokens"] == 1
