"""Other projects' clients against `suite.py serve` on an embedded model: their figures and the server's own records agree.

They run in an environment of their own, `.venv-clients`; `make test-clients` makes it. Requests queue, one runs at a time: times to first
token are then long enough for 5 % of them to be more than the few milliseconds in which a loaded machine starts a waiting process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from pipelines.models.embedded import LANGUAGE
from tests.conftest import ROOT, suite_env

CLIENTS = ROOT / ".venv-clients"
INFERENCE_PERF = ROOT / ".venv-clients" / "inference-perf"  # needs Python 3.12, and other versions of what the others need
TOKENIZER = str(LANGUAGE["embedded"])
NUM_REQUESTS, IN_FLIGHT, PROMPT_TOKENS, ANSWER_TOKENS = 16, 4, 150, 32
TOLERANCE = 0.05

pytestmark = pytest.mark.skipif(not (CLIENTS / ".ready").exists(), reason="make test-clients makes the clients' environment")


@dataclass
class Server:
    url: str
    log: Path

    def records(self) -> list[dict[str, Any]]:
        """The requests that were answered since the last call."""
        records = [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]
        os.truncate(self.log, 0)
        assert all(r.get("status", "done") == "done" for r in records), records
        return records


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("server") / "log.jsonl"
    options = ["--config", "llm/embedded", "--set", "pipeline.batch_size=1", "--set", "warmup_batches=1", "--log", str(log)]
    command = [sys.executable, str(ROOT / "suite.py"), "serve", *options]
    process = subprocess.Popen(command, env=suite_env(), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield Server(json.loads(process.stdout.readline())["url"], log)
    finally:
        process.terminate()
        process.wait()


def run(program: str, *arguments: str, folder: Path = CLIENTS, cwd: Path = ROOT) -> None:
    """Run a program of the clients' environment."""
    environment = os.environ | {"NO_COLOR": "1", "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    if program == "aiperf":
        del environment["HF_HUB_OFFLINE"]  # with it, aiperf 0.13 looks for a folder's tokenizer in the hub's cache
    command = [str(folder / "bin" / program), *arguments]
    done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]


def agrees(server: Server, ttft_s: float, tpot_s: float) -> None:
    """With means over the last records; earlier ones are of a client's warm-up."""
    records = server.records()[-NUM_REQUESTS:]
    assert len(records) == NUM_REQUESTS
    ours = (
        mean(r["first_token_s"] for r in records),
        mean((r["done_s"] - r["first_token_s"]) / (r["num_output_tokens"] - 1) for r in records),
    )
    print(f"client {ttft_s:.4f} s, {tpot_s:.5f} s; server {ours[0]:.4f} s, {ours[1]:.5f} s")  # shown by pytest -rP
    assert (ttft_s, tpot_s) == pytest.approx(ours, rel=TOLERANCE)


@pytest.mark.parametrize(("backend", "path"), [("openai-chat", "/v1/chat/completions"), ("openai", "/v1/completions")])
def test_vllm_bench_serve_agrees(server: Server, tmp_path: Path, backend: str, path: str) -> None:
    run(
        *("python", str(ROOT / "tests/clients/vllm_bench.py"), "--backend", backend, "--base-url", server.url, "--endpoint", path),
        *("--model", "embedded", "--tokenizer", TOKENIZER, "--dataset-name", "random", "--ignore-eos", "--temperature", "0.7"),
        *("--random-input-len", str(PROMPT_TOKENS), "--random-output-len", str(ANSWER_TOKENS)),
        *("--num-prompts", str(NUM_REQUESTS), "--max-concurrency", str(IN_FLIGHT), "--disable-tqdm"),
        *("--save-result", "--result-dir", str(tmp_path), "--result-filename", "result.json"),
    )
    figures = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert (figures["completed"], figures["total_output_tokens"]) == (NUM_REQUESTS, NUM_REQUESTS * ANSWER_TOKENS)
    agrees(server, figures["mean_ttft_ms"] / 1e3, figures["mean_tpot_ms"] / 1e3)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_guidellm_with_synthetic_prompts_agrees(server: Server, tmp_path: Path, path: str) -> None:
    run(
        *("guidellm", "run", "--disable-console"),
        *("--backend", f"kind=openai_http,target={server.url},model=embedded,request_format={path}"),
        *("--profile", f"kind=concurrent,streams={IN_FLIGHT}", "--constraint", f"kind=max_requests,count={NUM_REQUESTS}"),
        *("--tokenizer", f"kind=hf_auto,model={TOKENIZER}"),
        *("--data", f"kind=synthetic_text,prompt_tokens={PROMPT_TOKENS},output_tokens={ANSWER_TOKENS}"),
        *("--output", f"kind=json,path={tmp_path / 'guidellm.json'}"),
    )
    requests = json.loads((tmp_path / "guidellm.json").read_text(encoding="utf-8"))["benchmarks"][0]["requests"]["successful"]
    assert [r["output_tokens"] for r in requests] == [ANSWER_TOKENS] * NUM_REQUESTS
    agrees(server, *(mean(r[name] for r in requests) / 1e3 for name in ("time_to_first_token_ms", "inter_token_latency_ms")))


def test_aiperf_agrees(server: Server, tmp_path: Path) -> None:
    run(
        *("aiperf", "profile", "--model", "embedded", "--url", server.url, "--endpoint-type", "chat", "--streaming", "--ui", "none"),
        *("--concurrency", str(IN_FLIGHT), "--request-count", str(NUM_REQUESTS), "--isl", str(PROMPT_TOKENS), "--osl", str(ANSWER_TOKENS)),
        *(
            "--tokenizer",
            TOKENIZER,
            "--extra-inputs",
            f"min_tokens:{ANSWER_TOKENS}",
            "--use-server-token-count",
            "--artifact-dir",
            str(tmp_path),
        ),
        cwd=tmp_path,
    )
    figures = json.loads((tmp_path / "profile_export_aiperf.json").read_text(encoding="utf-8"))
    assert figures["request_count"]["avg"] == NUM_REQUESTS
    agrees(server, figures["time_to_first_token"]["avg"] / 1e3, figures["inter_token_latency"]["avg"] / 1e3)


@pytest.mark.skipif(not INFERENCE_PERF.exists(), reason="inference-perf needs Python 3.12")
def test_inference_perf_with_synthetic_prompts_agrees(server: Server, tmp_path: Path) -> None:
    """Of the latency: its first token is the first with text, and its count that of the text's tokens; end tokens leave no text."""
    length = {"min": PROMPT_TOKENS, "max": PROMPT_TOKENS, "mean": PROMPT_TOKENS, "std_dev": 0, "total_count": NUM_REQUESTS}
    answers = length | dict.fromkeys(("min", "max", "mean"), ANSWER_TOKENS)
    config = {
        "load": {"type": "constant", "num_workers": 1, "stages": [{"rate": 4, "duration": NUM_REQUESTS // 4}]},
        "api": {"type": "completion", "streaming": True},
        "server": {"type": "vllm", "model_name": "embedded", "base_url": server.url, "ignore_eos": True},
        "tokenizer": {"pretrained_model_name_or_path": TOKENIZER},
        "data": {
            "type": "synthetic",
            "input_distribution": length,
            "output_distribution": answers,
        },
        "report": {"request_lifecycle": {"summary": True, "per_stage": False, "per_request": False}},
        "storage": {"local_storage": {"path": str(tmp_path / "report")}},
    }
    (tmp_path / "config.yml").write_text(json.dumps(config), encoding="utf-8")
    run("inference-perf", "-c", str(tmp_path / "config.yml"), folder=INFERENCE_PERF, cwd=tmp_path)
    done = json.loads((tmp_path / "report/summary_lifecycle_metrics.json").read_text(encoding="utf-8"))["successes"]
    records = server.records()
    assert done["count"] == len(records) == NUM_REQUESTS
    theirs, ours = done["latency"]["request_latency"]["mean"], mean(r["done_s"] for r in records)
    print(f"client {theirs:.4f} s; server {ours:.4f} s")
    assert theirs == pytest.approx(ours, rel=TOLERANCE)


def test_the_openai_client_gets_what_it_asks_for(server: Server) -> None:
    run("python", str(ROOT / "tests/clients/openai_requests.py"), server.url)
    os.truncate(server.log, 0)
