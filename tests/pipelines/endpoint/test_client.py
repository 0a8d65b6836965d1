"""Connections: retries, several servers, keys and TLS."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from configs.errors import ConfigError
from configs.registry import make
from pipelines.endpoint.pipeline import Endpoint
from tests.pipelines.endpoint.fault_server import FaultServer, ask


def test_a_lost_server_fails_queries_and_an_absent_one_stops_the_run(server: FaultServer, loaded: Callable[..., Endpoint]) -> None:
    endpoint = loaded()
    server.stop()
    (response,) = ask(endpoint, "fine")
    assert f"{server.url}: no connection" in str(response.error)
    with pytest.raises(ConfigError, match=r"no connection: .*; start it, or correct pipeline\.url"):
        loaded()


def test_waiting_for_a_connection_is_a_stage_of_its_own(loaded: Callable[..., Endpoint]) -> None:
    first, second = ask(loaded(concurrency=1, batch_size=2), "slow", "fine")
    assert first.stages["client_queue"] < 0.3 <= second.stages["client_queue"]


def test_nothing_is_retried_by_default(server: FaultServer, loaded: Callable[..., Endpoint]) -> None:
    assert "status 503" in str(ask(loaded(), "twice 503")[0].error)
    server.counts.clear()
    (response,) = ask(loaded(retries=2, back_off_s=0.02), "twice 503")
    assert response.text == "one two three"
    assert response.stages["back_off"] >= 0.03
    assert sum(server.counts.values()) == 3


@pytest.mark.feature("endpoint", "several urls, dispatch policies")
def test_queries_go_to_several_servers_by_the_policy(server: FaultServer, loaded: Callable[..., Endpoint]) -> None:
    endpoint = loaded(url=[server.url, f"{server.url}/other"], dispatch="round_robin", concurrency=3)
    assert endpoint.batch_size == 6
    assert all(r.text for r in ask(endpoint, *["fine"] * 6))
    assert server.counts == {"/v1/chat/completions": 3, "/other/v1/chat/completions": 3}


def test_the_key_comes_from_the_environment_and_is_never_shown(
    server: FaultServer, loaded: Callable[..., Endpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-secret")
    endpoint = loaded(api_key_env="SOME_KEY")
    (response,) = ask(endpoint, "429")  # whose message quotes the key
    assert server.headers[0]["Authorization"] == "Bearer sk-secret"
    assert "Bearer ***" in str(response.error)
    assert "sk-secret" not in f"{response} {endpoint} {endpoint.effective()}"
    monkeypatch.delenv("SOME_KEY")
    with pytest.raises(ConfigError, match="'SOME_KEY', which is not set"):
        loaded(api_key_env="SOME_KEY")
    with pytest.raises(ConfigError) as refused:
        loaded(api_key_env="sk-secret")
    assert "sk-secret" not in str(refused.value)


def test_a_server_that_needs_a_key_stops_the_run_at_the_start(server: FaultServer, loaded: Callable[..., Endpoint]) -> None:
    server.models, server.no_models = None, 401
    with pytest.raises(ConfigError, match=r"status 401 Unauthorized; give its key by pipeline\.api_key_env"):
        loaded()


@pytest.fixture
def tls_server(tmp_path: Path) -> Iterator[tuple[FaultServer, Path]]:
    """A server over TLS with a self-signed certificate, and the certificate."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = FaultServer(context)
    yield server, certificate
    server.stop()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
@pytest.mark.feature("endpoint", "TLS")
def test_a_tls_server_is_trusted_only_by_its_authority(tls_server: tuple[FaultServer, Path]) -> None:
    server, certificate = tls_server

    def load(**options: Any) -> Endpoint:
        endpoint: Endpoint = make("pipelines", "endpoint", {"url": server.url} | options)
        endpoint.load(torch.device("cpu"))
        return endpoint

    with pytest.raises(ConfigError, match="certificate verify failed"):
        load()
    for verify, state in ((str(certificate), "verified where the url is https"), (False, "not verified")):
        endpoint = load(tls_verify=verify)
        assert ask(endpoint, "fine")[0].text == "one two three"
        assert endpoint.effective()["tls"] == state
        endpoint.close()
    with pytest.raises(ConfigError, match=r"nowhere\.pem"):
        load(tls_verify="nowhere.pem")
