"""`endpoint` against a server that does everything wrong that servers do; what is wrong is the prompt."""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
import subprocess
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from aiohttp import web

from configs.errors import ConfigError
from configs.registry import make
from pipelines.base import Event, Response
from pipelines.endpoint.pipeline import Endpoint
from pipelines.endpoint.text import events_of
from pipelines.models.embedded import LANGUAGE
from workloads.records import Query, Sample

USAGE = {"prompt_tokens": 5, "completion_tokens": 4}
WORDS = ("one ", "two ", "three")
PNG = b"\x89PNG and the rest"


class FaultServer:
    """Runs on a thread of its own. asked: how often each path was; bodies, headers: of the requests for answers."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.asked: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.models: Any = {"data": [{"id": "faulty"}]}
        self.no_models = 404
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.url = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()

    def stop(self) -> None:
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    async def _start(self) -> str:
        app = web.Application()
        for prefix in ("", "/other"):
            app.router.add_get(f"{prefix}/v1/models", self._models)
            app.router.add_post(f"{prefix}/v1/chat/completions", self._answer)
            app.router.add_post(f"{prefix}/v1/completions", self._answer)
        app.router.add_post("/v1/videos/generations", self._video)
        app.router.add_post("/v1/videos", self._video)
        app.router.add_get("/v1/videos/v1", self._video)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._tls).start()
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._runner.addresses[0][1]}"

    async def _models(self, request: web.Request) -> web.Response:
        if self.models is None:
            return web.Response(status=self.no_models)
        return web.json_response(self.models, headers={"Server": "faultd/1.0"})

    async def _video(self, request: web.Request) -> web.Response:
        if request.method == "GET":
            return web.json_response({"id": "v1", "status": "failed", "error": {"message": "out of memory"}})
        if request.content_type == "application/json":
            return web.json_response({"video_id": "v1", "video_path": (await request.json())["prompt"]})
        return web.json_response({"id": "v1", "status": "queued"})

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.asked[request.path] += 1
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        fault = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
        if fault in ("429", "500") or (fault == "twice 503" and self.asked[request.path] < 3):
            status = int(fault.removeprefix("twice "))
            key = request.headers.get("Authorization", "")
            return web.json_response({"error": {"message": f"come back later, {key}"}}, status=status)
        if fault == "slow":
            await asyncio.sleep(0.3)
        if not body.get("stream"):
            usage = {} if fault == "no usage" else {"usage": USAGE}
            choice = {"message": {"content": "".join(WORDS)}, "text": "".join(WORDS), "finish_reason": "length"}
            return web.json_response({"choices": [choice], **usage})
        return await self._stream(request, fault, body)

    async def _stream(self, request: web.Request, fault: str, body: dict[str, Any]) -> web.StreamResponse:
        stream = web.StreamResponse(headers={"Content-Type": "text/html" if fault == "not a stream" else "text/event-stream"})
        await stream.prepare(request)

        async def send(content: dict[str, Any]) -> None:
            await stream.write(b": a comment\ndata: " + json.dumps(content).encode() + b"\n\n")

        def choice(text: str, finish: str | None = None) -> dict[str, Any]:
            return {"choices": [{"delta": {"content": text}, "text": text, "finish_reason": finish}]}

        await send(choice(""))
        for word in WORDS:
            await send(choice(word))
            await asyncio.sleep(0.02)
        if fault == "cut":
            assert request.transport is not None
            request.transport.abort()
        elif fault == "ends early":
            pass
        elif fault == "malformed":
            await stream.write(b'data: {"choices": [\n\n')
        elif fault == "error inside":
            await send({"error": {"message": "out of memory"}})
        elif fault == "endless":
            while True:
                await send(choice("again "))
                await asyncio.sleep(0.02)
        else:
            await send(choice("", "stop"))
            if fault != "no usage":
                await send({"choices": [], "usage": USAGE})
            if fault != "no done":
                await stream.write(b"data: [DONE]\n\n")
        await stream.write_eof()
        return stream


@pytest.fixture
def server() -> Iterator[FaultServer]:
    found = FaultServer()
    yield found
    found.stop()


@pytest.fixture
def loaded(server: FaultServer) -> Iterator[Callable[..., Endpoint]]:
    made: list[Endpoint] = []

    def load(**options: Any) -> Endpoint:
        made.append(make("pipelines", "endpoint", {"url": server.url} | options))
        made[-1].load(torch.device("cpu"))
        return made[-1]

    yield load
    for endpoint in made:
        endpoint.close()


def asked(endpoint: Endpoint, *prompts: str) -> Sequence[Response]:
    samples = [Sample(i, prompt) for i, prompt in enumerate(prompts)]
    return endpoint.generate(samples, [Query(i, i, 7) for i in range(len(prompts))])


@pytest.mark.feature("endpoint", "chat, streamed, token times")
def test_an_answer_has_its_text_tokens_gaps_and_stages(loaded: Callable[..., Endpoint]) -> None:
    (response,) = asked(loaded(), "fine")
    assert response.error is None
    assert (response.text, response.finish_reason) == ("one two three", "stop")
    assert (response.num_input_tokens, response.num_units) == (5, 4)
    assert len(response.token_gap_s) == 3  # three deltas, and the end token
    assert response.stages.keys() == {"client_queue", "first_token", "further_tokens"}
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
        ("no usage", "no usage in the answer; count its tokens by count_by"),
        ("not a stream", "it answers with text/html"),
        ("endless", "no end of the answer within 1 s (timeout_s)"),
    ],
)
def test_what_goes_wrong_fails_its_own_query_and_names_the_server(
    server: FaultServer, loaded: Callable[..., Endpoint], fault: str, message: str
) -> None:
    before, bad, after = asked(loaded(timeout_s=1), "fine", fault, "fine")
    assert before.text == after.text == "one two three"
    assert bad.text is None
    assert message in str(bad.error)
    assert server.url in str(bad.error)
    assert "client_queue" in bad.stages


def test_a_stream_that_ends_without_done_is_whole_where_it_said_why_it_ends(loaded: Callable[..., Endpoint]) -> None:
    assert asked(loaded(), "no done")[0].text == "one two three"


def test_a_server_that_is_gone_fails_queries_and_none_at_all_stops_the_run(server: FaultServer, loaded: Callable[..., Endpoint]) -> None:
    endpoint = loaded()
    server.stop()
    (response,) = asked(endpoint, "fine")
    assert f"{server.url}: no connection" in str(response.error)
    with pytest.raises(ConfigError, match=r"no connection: .*; start it, or mend pipeline\.url"):
        loaded()


def test_the_first_token_is_told_when_it_is_there_and_its_wait_is_a_stage(loaded: Callable[..., Endpoint]) -> None:
    endpoint = loaded()
    endpoint.submit([Sample(0, "slow")], [Query(0, 0, 7)])
    first = endpoint.step(5.0)
    assert [(event.first_token_id, event.response) for event in first] == [(0, None)]
    events: list[Event] = []
    while not events:
        events += endpoint.step(1.0)
    assert events[0].response is not None
    assert events[0].response.stages["first_token"] >= 0.3


def test_waiting_for_a_connection_is_a_stage_of_its_own(loaded: Callable[..., Endpoint]) -> None:
    first, second = asked(loaded(concurrency=1, batch_size=2), "slow", "fine")
    assert first.stages["client_queue"] < 0.3 <= second.stages["client_queue"]


def test_nothing_is_tried_again_unless_asked_for(server: FaultServer, loaded: Callable[..., Endpoint]) -> None:
    assert "status 503" in str(asked(loaded(), "twice 503")[0].error)
    server.asked.clear()
    (response,) = asked(loaded(retries=2, back_off_s=0.02), "twice 503")
    assert response.text == "one two three"
    assert response.stages["back_off"] >= 0.03
    assert sum(server.asked.values()) == 3


@pytest.mark.feature("endpoint", "several urls, dispatch policies")
def test_several_servers_are_asked_by_the_policy(server: FaultServer, loaded: Callable[..., Endpoint]) -> None:
    endpoint = loaded(url=[server.url, f"{server.url}/other"], dispatch="round_robin", concurrency=3)
    assert endpoint.batch_size == 6
    assert all(r.text for r in asked(endpoint, *["fine"] * 6))
    assert server.asked == {"/v1/chat/completions": 3, "/other/v1/chat/completions": 3}


def test_the_key_comes_from_the_environment_and_is_never_shown(
    server: FaultServer, loaded: Callable[..., Endpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-secret")
    endpoint = loaded(api_key_env="SOME_KEY")
    (response,) = asked(endpoint, "429")  # whose message quotes the key
    assert server.headers[0]["Authorization"] == "Bearer sk-secret"
    assert "Bearer ***" in str(response.error)
    assert "sk-secret" not in f"{response} {endpoint} {endpoint.effective()}"
    monkeypatch.delenv("SOME_KEY")
    with pytest.raises(ConfigError, match="'SOME_KEY', which is not set"):
        loaded(api_key_env="SOME_KEY")
    with pytest.raises(ConfigError) as refused:
        loaded(api_key_env="sk-secret")
    assert "sk-secret" not in str(refused.value)


@pytest.mark.feature("endpoint", "token counts by usage, deltas or tokenizer")
@pytest.mark.parametrize(
    ("options", "count"),
    [({}, 4), ({"count_by": "deltas"}, 3), ({"count_by": "tokenizer", "tokenizer": str(LANGUAGE["embedded"])}, None)],
)
def test_tokens_are_counted_as_said(loaded: Callable[..., Endpoint], options: dict[str, Any], count: int | None) -> None:
    endpoint = loaded(**options)
    (response,) = asked(endpoint, "no usage" if options else "fine")
    assert response.num_units == (count or len(endpoint._load_tokenizer()("one two three", add_special_tokens=False)["input_ids"]))
    said = endpoint.effective()["token_counts"]
    assert {"usage": "the server's usage", "deltas": "deltas of the stream"}.get(endpoint.count_by, "tokenizer ") in said


def test_requests_carry_what_was_given_and_nothing_else(server: FaultServer, loaded: Callable[..., Endpoint]) -> None:
    asked(loaded(stream=False, count_by="usage"), "fine")
    assert server.bodies[-1] == {"model": "faulty", "messages": [{"role": "user", "content": "fine"}], "temperature": 0.0}
    more = {"temperature": 0.5, "top_p": 0.9, "top_k": 5, "max_new_tokens": 9, "extra": {"min_p": 0.1}, "api": "completions"}
    (response,) = asked(loaded(stream=False, **more), "fine")
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


def test_what_is_in_force_is_the_servers_word_and_the_rest_is_not_known(loaded: Callable[..., Endpoint]) -> None:
    said = loaded().effective()
    assert (said["model"], said["server"], said["retries"]) == ("faulty", "faultd/1.0", "0")
    assert {said[name] for name in ("dtype", "attention", "quantisation", "cache")} == {"not known: the server does not tell"}


@pytest.mark.parametrize(
    ("models", "options", "message"),
    [
        ({"data": [{"id": "a"}, {"id": "b"}]}, {}, "lists a, b; name one: --set pipeline.model=NAME"),
        ({"data": [{"id": "llama"}]}, {"model": "lama"}, "did you mean 'llama'"),
        (None, {}, "lists no models; name one"),
        ({"detail": "hello"}, {}, "no list of models"),
    ],
)
def test_the_model_must_be_known(server: FaultServer, loaded: Callable[..., Endpoint], models: Any, options: Any, message: str) -> None:
    server.models = models
    with pytest.raises(ConfigError, match=message):
        loaded(**options)


@pytest.mark.parametrize("status", [404, 500])  # 500: `transformers serve` where there is no hub cache
def test_a_server_without_a_list_of_models_is_asked_for_the_one_that_is_named(
    server: FaultServer, loaded: Callable[..., Endpoint], status: int
) -> None:
    server.models, server.no_models = None, status
    assert asked(loaded(model="anything"), "fine")[0].text == "one two three"
    assert server.bodies[0]["model"] == "anything"


def test_a_server_that_wants_a_key_is_told_so_before_the_run(server: FaultServer, loaded: Callable[..., Endpoint]) -> None:
    server.models, server.no_models = None, 401
    with pytest.raises(ConfigError, match=r"status 401 Unauthorized; give its key by pipeline\.api_key_env"):
        loaded()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "localhost:8000"}, "write it as http://HOST:PORT"),
        ({"url": "http://me:secret@host"}, "carries a user or a password"),
        ({"url": []}, "is empty"),
        ({"api": "videos", "max_new_tokens": 5}, "does nothing with api: videos"),
        ({"num_frames": 81}, "does nothing with api: chat"),
        ({"count_by": "tokenizer"}, "need each other"),
        ({"count_by": "deltas", "stream": False}, "needs stream: true"),
        ({"timeout_s": 0}, "must be above 0"),
        ({"retries": -1}, "must be at least 0"),
        ({"api": "chats"}, "'chat', 'completions', 'videos'"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        make("pipelines", "endpoint", options)
    assert message in str(refused.value)
    assert "secret" not in str(refused.value)


def test_each_api_answers_its_own_workloads_alone() -> None:
    assert Endpoint(api="completions").workloads == ("llm",)
    assert Endpoint(api="videos").workloads == ("t2v",)


def test_videos_that_fail_or_are_nowhere_say_so(loaded: Callable[..., Endpoint], tmp_path: Any) -> None:
    (polled,) = asked(loaded(api="videos", poll_s=0.01), "x")
    assert "/v1/videos/v1: the video is 'failed': out of memory" in str(polled.error)
    (unread,) = asked(loaded(api="video_generations"), "/etc/hostname")
    assert "name the folder that it writes to" in str(unread.error)
    (outside,) = asked(loaded(api="video_generations", video_folder=str(tmp_path)), f"{tmp_path}/../secret.mp4")
    assert "outside of video_folder" in str(outside.error)


def test_events_are_the_same_wherever_the_network_cuts_them() -> None:
    content = ": hello\r\ndata: {1}\n\nevent: x\ndata:two\r\ndata: lines\r\n\r\ndata: é\n\nretry: 5\n\ndata: [DONE]\n\n".encode()

    async def read(at: int) -> list[str]:
        async def pieces() -> AsyncIterator[bytes]:
            yield content[:at]
            yield content[at:]

        return [data async for data in events_of(pieces())]

    for at in range(len(content)):
        assert asyncio.run(read(at)) == ["{1}", "two\nlines", "é", "[DONE]"], at


@pytest.fixture
def tls_server(tmp_path: Path) -> Iterator[tuple[FaultServer, Path]]:
    """Over TLS, with a certificate of its own making; the certificate."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    asked = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    asked += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(asked, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    found = FaultServer(context)
    yield found, certificate
    found.stop()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
@pytest.mark.feature("endpoint", "TLS")
def test_a_server_is_believed_over_tls_by_its_authority_alone(tls_server: tuple[FaultServer, Path]) -> None:
    server, certificate = tls_server

    def load(**options: Any) -> Endpoint:
        endpoint: Endpoint = make("pipelines", "endpoint", {"url": server.url} | options)
        endpoint.load(torch.device("cpu"))
        return endpoint

    with pytest.raises(ConfigError, match="certificate verify failed"):
        load()
    for verify, told in ((str(certificate), "verified where the url is https"), (False, "not verified")):
        endpoint = load(tls_verify=verify)
        assert asked(endpoint, "fine")[0].text == "one two three"
        assert endpoint.effective()["tls"] == told
        endpoint.close()
    with pytest.raises(ConfigError, match=r"nowhere\.pem"):
        load(tls_verify="nowhere.pem")
