"""The endpoint against other projects' servers, started here where they are installed: answers are the engine's own."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from configs.registry import make
from pipelines.models.embedded import LANGUAGE
from tests.conftest import suite_env
from workloads.llm import Language
from workloads.records import Query

MODEL = str(LANGUAGE["embedded"])
READY_S = 120.0
PAGED = ["--continuous-batching", "--cb-num-blocks", "64", "--cb-max-batch-tokens", "512", "--cb-block-size", "32"]
SERVING = ("fastapi", "uvicorn", "openai", "multipart")  # what `transformers serve` needs beside transformers


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Starts a server by its command with `--port N` added, and returns its url once it has answered."""
    running: list[subprocess.Popen[bytes]] = []

    def start(*command: str) -> str:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        log = tmp_path / "server.log"
        env = suite_env() | {"OMP_NUM_THREADS": "1", "HF_HOME": str(tmp_path), "VLLM_CPU_KVCACHE_SPACE": "1"}
        with log.open("wb") as stream:
            words = [sys.executable, *command, "--port", str(port)]
            running.append(subprocess.Popen(words, env=env, stdout=stream, stderr=stream, start_new_session=True))
        end = time.monotonic() + READY_S
        while time.monotonic() < end and running[-1].poll() is None:
            try:
                with urllib.request.urlopen(_first_request(port), timeout=READY_S):
                    return f"http://127.0.0.1:{port}"
            except OSError:  # it does not listen yet, or closes the connection while it loads its model for the first request
                time.sleep(0.5)
        raise AssertionError(log.read_text(errors="replace")[-3000:])

    yield start
    for process in running:
        os.killpg(process.pid, signal.SIGKILL)  # with the processes of its engine
        process.wait()


def answers(pipeline: Any) -> list[tuple[str | None, int, int]]:
    """Text, tokens and tokens of the prompt, of eight tasks."""
    pipeline.load(torch.device("cpu"))
    samples = list(Language(num_prompts=8).samples())
    try:
        responses = pipeline.generate(samples, [Query(i, i, i) for i in range(len(samples))])
    finally:
        pipeline.close()
    assert [r.error for r in responses] == [None] * len(samples)
    return [(r.text, r.num_units, r.num_input_tokens) for r in responses]


@pytest.mark.feature("endpoint", "against `transformers serve`")
def test_transformers_own_server_gives_the_engines_answers(started: Callable[..., str]) -> None:
    """Greedy: texts and counts of tokens must be those of transformers_llm in this process."""
    if importlib.util.find_spec("vllm") is not None:
        pytest.skip("vLLM needs an older transformers; there, its own server is tested")
    if missing := [name for name in SERVING if importlib.util.find_spec(name) is None]:
        pytest.skip(f"`transformers serve` needs {', '.join(missing)}: make features")
    url = started("-m", "transformers.cli.transformers", "serve", MODEL, "--device", "cpu", "--dtype", "float32", *PAGED)
    served = answers(make("pipelines", "endpoint", {"url": url, "model": MODEL, "max_new_tokens": 64}))
    assert served == answers(make("pipelines", "transformers_llm", {"max_new_tokens": 64}))


@pytest.mark.feature("endpoint", "against vLLM's own server")
def test_vllms_own_server_gives_the_engines_answers(started: Callable[..., str]) -> None:
    """vLLM's kernels sum in another order, so one answer of eight may differ."""
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed: make test-vllm")
    url = started(
        "-m", "vllm.entrypoints.openai.api_server", "--model", MODEL, "--dtype", "float32", "--enforce-eager", "--max-model-len", "512"
    )
    served = answers(make("pipelines", "endpoint", {"url": url, "max_new_tokens": 64}))
    own = answers(make("pipelines", "transformers_llm", {"max_new_tokens": 64}))
    assert sum(one == other for one, other in zip(served, own, strict=True)) >= len(own) - 1


def _first_request(port: int) -> urllib.request.Request:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "count from 1 to 2."}], "max_tokens": 2}
    url, kind = f"http://127.0.0.1:{port}/v1/chat/completions", {"Content-Type": "application/json"}
    return urllib.request.Request(url, json.dumps(body).encode(), kind)
