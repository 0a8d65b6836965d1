"""Options of the endpoint, the model that it names, and its effective settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from configs.errors import ConfigError
from configs.registry import make
from pipelines.endpoint.pipeline import Endpoint
from tests.pipelines.endpoint.fault_server import FaultServer, ask


def test_effective_settings_are_those_the_server_reports(loaded: Callable[..., Endpoint]) -> None:
    effective = loaded().effective()
    assert (effective["model"], effective["server"], effective["retries"]) == ("faulty", "faultd/1.0", "0")
    assert {effective[name] for name in ("dtype", "attention", "quantisation", "cache")} == {"not known: the server does not report it"}


@pytest.mark.parametrize(
    ("models", "options", "message"),
    [
        ({"data": [{"id": "a"}, {"id": "b"}]}, {}, "lists a, b; name one: --set pipeline.model=NAME"),
        ({"data": [{"id": "llama"}]}, {"model": "lama"}, "did you mean 'llama'"),
        (None, {}, "lists no models; name one"),
        ({"detail": "hello"}, {}, "does not return a list of models"),
    ],
)
def test_the_model_must_be_one_that_the_server_lists(
    server: FaultServer, loaded: Callable[..., Endpoint], models: Any, options: Any, message: str
) -> None:
    server.models = models
    with pytest.raises(ConfigError, match=message):
        loaded(**options)


@pytest.mark.parametrize("status", [404, 500])  # 500: `transformers serve` where there is no hub cache
def test_a_server_without_a_list_of_models_gets_the_named_one(server: FaultServer, loaded: Callable[..., Endpoint], status: int) -> None:
    server.models, server.no_models = None, status
    assert ask(loaded(model="anything"), "fine")[0].text == "one two three"
    assert server.bodies[0]["model"] == "anything"


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/", "/v1/chat/completions"])
def test_a_url_may_have_the_path_of_its_api(server: FaultServer, loaded: Callable[..., Endpoint], path: str) -> None:
    assert ask(loaded(url=f"{server.url}/other{path}"), "fine")[0].text == "one two three"
    assert server.counts == {"/other/v1/chat/completions": 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "localhost:8000"}, "write it as http://HOST:PORT"),
        ({"url": "http://me:secret@host"}, "contains a user or a password"),
        ({"url": []}, "is empty"),
        ({"url": "http://host:99999"}, "write it as http://HOST:PORT"),
        ({"url": "http://host/v1/completions"}, "the path of api: completions; end it before /v1, or set that api"),
        ({"api": "videos", "max_new_tokens": 5}, "has no effect with api: videos"),
        ({"num_frames": 81}, "has no effect with api: chat"),
        ({"count_by": "tokenizer"}, "need each other"),
        ({"count_by": "deltas", "stream": False}, "needs stream: true"),
        ({"timeout_s": 0}, "timeout_s must be positive, got 0"),
        ({"retries": -1}, "retries must be at least 0, got -1"),
        ({"api": "chats"}, "'chat', 'completions', 'videos'"),
    ],
)
def test_an_invalid_option_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        make("pipelines", "endpoint", options)
    assert message in str(refused.value)
    assert "secret" not in str(refused.value)


def test_each_api_has_its_own_workloads() -> None:
    assert Endpoint(api="completions").workloads == ("llm",)
    assert Endpoint(api="videos").workloads == ("t2v",)
