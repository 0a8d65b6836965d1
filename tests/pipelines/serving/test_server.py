"""`suite.py serve` as a client meets it: the routes over toy pipelines, and the command itself with `endpoint` as its client."""

from __future__ import annotations

import asyncio
import base64
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from aiohttp.test_utils import TestClient, TestServer

from configs.errors import ConfigError
from configs.load_config import parse_config
from pipelines.base import Event, Pipeline, Response, StreamingPipeline
from pipelines.serving.engine import Engine, Question
from pipelines.serving.server import make_app, serve
from pipelines.serving.state import Served
from pipelines.toy.llm import ToyLLM, solve
from pipelines.toy.t2v import ToyT2V
from pipelines.toy.vlm import ToyVLM
from tests.conftest import ROOT, SuiteRun, last_line, read_report, suite_env
from workloads.llm import Language
from workloads.records import Query, Sample
from workloads.run_folder.media import read_mp4
from workloads.vlm import VisionLanguage

PROMPT = Language(num_prompts=1).samples()[0].prompt
CAPTION = "a red disc moves left slowly"


class Recorder(Pipeline):
    """Says each prompt again, and notes its batches. `gate` holds the first one until it is set."""

    workloads: ClassVar[tuple[str, ...]] = ("llm",)
    batch_size = 4

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gate = threading.Event()

    def load(self, device: Any) -> None: ...

    def generate(self, samples: Sequence[Sample], queries: Sequence[Query]) -> Sequence[Response]:
        self.batches.append([s.prompt for s in samples])
        if "break" in self.batches[-1]:
            raise RuntimeError("out of memory")
        self.gate.wait(5)
        return [Response(error="too long") if s.prompt == "long" else Response(text=s.prompt, num_units=1) for s in samples]


@dataclass
class Limited(ToyLLM):
    """With the options that real ones have."""

    max_new_tokens: int = 64
    do_sample: bool = False
    temperature: float = 1.0
    system_prompt: str | None = "be brief"
    chat: bool = True


def ask(pipeline: Pipeline, tell: Callable[[TestClient[Any, Any]], Awaitable[Any]], key: str | None = None, videos: Path = Path()) -> Any:
    """What `tell` returns, with a client of a server of the pipeline."""

    async def run() -> Any:
        if isinstance(pipeline, StreamingPipeline):
            pipeline.speaks = True
        engine = Engine(pipeline)
        try:
            async with TestClient(TestServer(make_app(Served(pipeline, engine, "toy", videos), key))) as client:
                return await tell(client)
        finally:
            await asyncio.to_thread(engine.close)

    return asyncio.run(run())


def chat(prompt: str = PROMPT, **more: Any) -> dict[str, Any]:
    return {"model": "toy", "messages": [{"role": "user", "content": prompt}], **more}


async def post(client: TestClient[Any, Any], body: Any, path: str = "/v1/chat/completions") -> tuple[int, Any]:
    async with client.post(path, json=body) as answer:
        return answer.status, await answer.json()


def test_an_answer_is_the_pipelines_with_its_counts_of_tokens() -> None:
    status, body = ask(ToyLLM(), lambda client: post(client, chat()))
    assert status == 200
    choice = body["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (solve(PROMPT), "stop")
    words, asked = len(solve(PROMPT).split()) + 1, len(PROMPT.split())
    assert body["usage"] == {"prompt_tokens": asked, "completion_tokens": words, "total_tokens": asked + words}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_stream_tells_the_answer_word_by_word_as_it_is_made(path: str) -> None:
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

    lines, times = ask(ToyLLM(token_s=0.03), stream)
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
        (chat(max_tokens=16), "max_tokens", "--set pipeline.max_new_tokens=16"),
        (chat(max_tokens="many"), "max_tokens", "whole number"),
        (chat(n=2), "n", "cannot do"),
        (chat(stop=["\n"]), "stop", "cannot do"),
        (chat(max_token=16), "max_token", "did you mean 'max_tokens'"),
        (chat(seed=-1), "seed", "whole number"),
        (chat(stream="yes"), "stream", '"stream": true'),
        ({"messages": []}, "messages", "list of messages"),
        ({"messages": [{"role": "system", "content": "rhyme"}, {"role": "user", "content": "x"}]}, "messages", "pipeline.system_prompt"),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}, "messages", "not a conversation"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]}, "messages", "known: text"),
    ],
)
def test_what_it_cannot_do_is_refused_with_the_fix(body: Any, param: str, message: str) -> None:
    status, told = ask(Limited(), lambda client: post(client, body))
    assert status in (400, 404)
    assert told["error"]["param"] == param
    assert message in told["error"]["message"]


def test_what_is_in_force_anyway_may_be_asked_for() -> None:
    more: dict[str, Any] = {"temperature": 0, "top_p": 0.9, "max_tokens": 64, "n": 1, "stop": None, "seed": 7, "user": "me"}
    body = chat(**more)
    body["messages"].insert(0, {"role": "system", "content": "be brief"})
    assert ask(Limited(), lambda client: post(client, body))[0] == 200


def test_bare_prompts_are_refused_where_there_is_a_chat_template() -> None:
    status, told = ask(Limited(), lambda client: post(client, {"prompt": "x"}, "/v1/completions"))
    assert status == 400
    assert "pipeline.chat=false" in told["error"]["message"]


def test_bodies_that_are_no_json_and_paths_that_are_not_there_get_openais_errors() -> None:
    async def ask_badly(client: TestClient[Any, Any]) -> list[Any]:
        text = await client.post("/v1/chat/completions", data="{", headers={"Content-Type": "application/json"})
        form = await client.post("/v1/chat/completions", data="{}")
        nowhere = await client.get("/v1/nowhere")
        return [(a.status, (await a.json())["error"]["message"]) for a in (text, form, nowhere)]

    told = ask(ToyLLM(), ask_badly)
    assert [status for status, _ in told] == [400, 400, 404]
    for (_, message), words in zip(told, ("is not JSON", "Content-Type: application/json", "/v1/models"), strict=True):
        assert words in message


def test_streams_run_side_by_side() -> None:
    async def eight(client: TestClient[Any, Any]) -> float:
        began = time.perf_counter()
        answers = await asyncio.gather(*(post(client, chat()) for _ in range(8)))
        assert all(status == 200 for status, _ in answers)
        return time.perf_counter() - began

    one_s = 0.03 * len(solve(PROMPT).split())
    assert ask(ToyLLM(token_s=0.03), eight) < 4 * one_s


def test_what_waits_is_answered_in_batches_of_batch_size_at_most_and_who_left_is_not() -> None:
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

    assert ask(pipeline, six) == ["0", "1", "2", "3", "4", "5"]
    assert [len(batch) for batch in pipeline.batches] == [1, 4, 1]
    assert not any("gone" in batch for batch in pipeline.batches)


def test_a_query_that_fails_is_an_error_and_the_server_goes_on() -> None:
    pipeline = Recorder()
    pipeline.gate.set()

    async def three(client: TestClient[Any, Any]) -> list[Any]:
        return [await post(client, chat(prompt)) for prompt in ("break", "long", "fine")]

    broken, refused, fine = ask(pipeline, three)
    assert (broken[0], broken[1]["error"]["message"]) == (500, "RuntimeError: out of memory")
    assert (refused[0], refused[1]["error"]["message"]) == (400, "too long")
    assert fine[0] == 200


def test_what_breaks_in_the_middle_of_a_stream_is_told_in_it() -> None:
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

    told = json.loads(ask(Breaking(token_s=0.03), stream).removeprefix("data: "))
    assert told["error"]["message"] == "RuntimeError: out of memory"


@pytest.mark.feature("serve", "images")
def test_images_come_as_data_urls_and_nothing_is_fetched() -> None:
    sample = VisionLanguage(num_prompts=1).samples()[0]
    urls = [f"data:image/png;base64,{base64.b64encode(image).decode()}" for image in sample.images]

    def body(urls: Sequence[str]) -> dict[str, Any]:
        parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        return {"messages": [{"role": "user", "content": [*parts, {"type": "text", "text": sample.prompt}]}]}

    status, told = ask(ToyVLM(), lambda client: post(client, body(urls)))
    assert (status, told["choices"][0]["message"]["content"]) == (200, sample.meta["answer"])
    status, told = ask(ToyVLM(), lambda client: post(client, body(["http://127.0.0.1/cat.png"])))
    assert status == 400
    assert "data: URLs" in told["error"]["message"]


@pytest.mark.feature("serve", "videos, blocking and by submit, poll, download")
@pytest.mark.feature("endpoint", "video servers, blocking and by submit, poll, download")
def test_a_video_comes_back_as_it_was_made_by_every_way(tmp_path: Path) -> None:
    made = ToyT2V().generate([Sample(0, CAPTION)], [Query(0, 0, 5)])[0].video_THWC

    async def three_ways(client: TestClient[Any, Any]) -> list[bytes]:
        body, found = {"prompt": CAPTION, "seed": 5}, []
        _, whole = await post(client, body, "/v1/videos/generations")
        found.append(base64.b64decode(whole["video_bytes"]))
        _, named = await post(client, body | {"response_format": "video_path"}, "/v1/videos/generations")
        assert Path(named["video_path"]).parent == tmp_path
        found.append(Path(named["video_path"]).read_bytes())
        async with client.post(
            "/v1/videos", data={name: str(value) for name, value in body.items()}
        ) as answer:  # a form, as OpenAI's client
            job = await answer.json()
        assert job["status"] in ("queued", "in_progress")
        while job["status"] != "completed":
            job = await (await client.get(f"/v1/videos/{job['id']}")).json()
        assert job["inference_time_s"] >= 0
        found.append(await (await client.get(f"/v1/videos/{job['id']}/content")).read())
        assert (await client.delete(f"/v1/videos/{job['id']}")).status == 200
        assert (await client.get(f"/v1/videos/{job['id']}/content")).status == 404
        return found

    for content in ask(ToyT2V(), three_ways, videos=tmp_path):
        video_THWC, fps = read_mp4(content)
        np.testing.assert_array_equal(video_THWC, made)
        assert fps == 8


def test_a_video_that_fails_says_why_and_settings_of_its_own_are_refused() -> None:
    async def badly(client: TestClient[Any, Any]) -> list[Any]:
        async with client.post("/v1/videos", json={"prompt": CAPTION}) as answer:
            job = await answer.json()
        while job["status"] not in ("completed", "failed"):
            job = await (await client.get(f"/v1/videos/{job['id']}")).json()
        return [job, await post(client, {"prompt": CAPTION, "num_frames": 81}, "/v1/videos/generations")]

    job, (status, told) = ask(ToyT2V(fail_every=1), badly)
    assert (job["status"], job["error"]["message"]) == ("failed", "toy failure of query 0")
    assert status == 400
    assert "pipeline.num_frames" in told["error"]["message"]


def test_the_key_is_asked_for() -> None:
    async def knock(client: TestClient[Any, Any]) -> list[int]:
        keys = [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer right"}]
        return [(await client.get("/v1/models", headers=key)).status for key in keys]

    assert ask(ToyLLM(), knock, key="right") == [401, 401, 200]


@pytest.mark.parametrize(("host", "name", "message"), [("0.0.0.0", None, "--api-key-env NAME"), ("127.0.0.1", "NO_SUCH_KEY", "not set")])
def test_others_reach_it_with_a_key_only(host: str, name: str | None, message: str) -> None:
    config = parse_config({"workload": "llm", "pipeline": {"name": "toy_llm"}}, "test")
    with pytest.raises(ConfigError, match=message):
        serve(config, host, 0, name, None)


def test_an_engine_that_is_closed_tells_who_waits() -> None:
    pipeline, told = Recorder(), list[Any]()
    engine = Engine(pipeline)
    for prompt in "ab":
        engine.ask(Question(prompt, 1), told.append)
        while not pipeline.batches:
            time.sleep(0.005)
    threading.Timer(0.05, pipeline.gate.set).start()
    engine.close()
    assert [getattr(getattr(t, "response", None), "text", str(t)) for t in told] == ["a", "the server is being stopped"]


@pytest.fixture
def served_llm(tmp_path: Path) -> Iterator[tuple[dict[str, Any], subprocess.Popen[str]]]:
    command = [sys.executable, str(ROOT / "suite.py"), "serve", "--config", "llm/toy"]
    process = subprocess.Popen(command, cwd=tmp_path, env=suite_env(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline()), process
    finally:
        process.kill()
        process.wait()


@pytest.mark.feature("serve", "chat and completions, asked by our endpoint")
def test_a_run_through_the_server_has_the_engines_answers_and_ctrl_c_ends_it(
    suite: SuiteRun, served_llm: tuple[dict[str, Any], subprocess.Popen[str]]
) -> None:
    ready, process = served_llm
    short = [f"pipeline={{name: endpoint, url: {ready['url']}, repeats: alone}}", "load.min_duration_s=0.3", "load.min_query_count=21"]
    done = suite(
        "--config", "llm/toy", "--set", "dataset.num_prompts=21", *(word for s in short for word in ("--set", s)), "--output", "run"
    )
    assert done.returncode == 0, done.stderr
    report = read_report(done)
    assert report["verdict"] == "VALID", report["reasons"]
    assert report["effective"]["model"] == "toy_llm"
    folder = Path(last_line(done)["run"])
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text(encoding="utf-8").splitlines()]
    samples = Language(num_prompts=21).samples()
    assert all(r["text"] == solve(samples[r["sample_index"]].prompt) for r in records)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=10) == 0
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()
