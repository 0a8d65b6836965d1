"""`suite.py serve`: keys, and the command itself with `endpoint` as its client."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from configs.errors import ConfigError
from configs.load_config import parse_config
from pipelines.serving.server import serve
from pipelines.toy.llm import ToyLLM, solve
from tests.conftest import ROOT, SuiteRun, last_line, read_report, suite_env
from tests.pipelines.serving.serving_client import with_client
from workloads.llm import Language


def test_a_client_needs_the_key() -> None:
    async def try_keys(client: TestClient[Any, Any]) -> list[int]:
        keys = [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer right"}]
        return [(await client.get("/v1/models", headers=key)).status for key in keys]

    assert with_client(ToyLLM(), try_keys, key="right") == [401, 401, 200]


@pytest.mark.parametrize(("host", "name", "message"), [("0.0.0.0", None, "--api-key-env NAME"), ("127.0.0.1", "NO_SUCH_KEY", "not set")])
def test_other_machines_need_a_key(host: str, name: str | None, message: str) -> None:
    config = parse_config({"workload": "llm", "pipeline": {"name": "toy_llm"}}, "test")
    with pytest.raises(ConfigError, match=message):
        serve(config, host, 0, name, None)


@pytest.fixture
def llm_server(tmp_path: Path) -> Iterator[tuple[dict[str, Any], subprocess.Popen[str]]]:
    command = [sys.executable, str(ROOT / "suite.py"), "serve", "--config", "llm/toy"]
    process = subprocess.Popen(command, cwd=tmp_path, env=suite_env(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline()), process
    finally:
        process.kill()
        process.wait()


@pytest.mark.feature("serve", "chat and completions, asked by our endpoint")
def test_a_run_against_the_server_has_the_engines_answers_and_ctrl_c_ends_it(
    suite: SuiteRun, llm_server: tuple[dict[str, Any], subprocess.Popen[str]]
) -> None:
    ready, process = llm_server
    short = [f"pipeline={{name: endpoint, url: {ready['url']}, repeats: alone}}", "load.min_duration_s=0.3", "load.min_query_count=21"]
    short.append("allow_fallback=[client_lag]")  # client and server share few cores with other tests
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
