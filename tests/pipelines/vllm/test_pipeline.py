"""vLLM's answers, seeds, streams and ranks. What needs vLLM runs where its CPU build is installed (`make test-vllm`)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.base import Event
from pipelines.transformers.llm import TransformersLLM
from tests.conftest import TWO_RANKS, SuiteRun, read_report
from tests.pipelines.vllm.vllm_pipeline import BRIEF, CPU, PROMPTS, SAMPLES, ask, load_on_gpu, needs_vllm
from workloads.records import Query

FREE = "canaries={cut_off: off, looping: off, utf8: off, identical: off}"  # a network with random weights talks on


@needs_vllm
@pytest.mark.parametrize(
    "model",
    [
        pytest.param("embedded", marks=pytest.mark.feature("vllm", "llm, dense")),
        pytest.param("embedded-moe", marks=pytest.mark.feature("vllm", "llm, mixture of experts")),
    ],
)
def test_greedy_answers_are_those_of_transformers(loaded: Any, model: str) -> None:
    peer = TransformersLLM(model=model, max_new_tokens=24, batch_size=4)
    peer.load(CPU)
    expected = ask(peer)
    peer.close()
    for ours, theirs in zip(ask(loaded(model=model)), expected, strict=True):
        for name in ("text", "token_ids", "num_units", "num_input_tokens", "first_token_id", "finish_reason", "error"):
            assert getattr(ours, name) == getattr(theirs, name), name
        assert len(ours.token_gap_s) == ours.num_units - 1
    assert {r.finish_reason for r in expected} == {"stop", "length"}


@needs_vllm
@pytest.mark.feature("vllm", "seeded sampling")
def test_sampled_answers_depend_on_the_seed_and_not_on_the_batch(loaded: Any) -> None:
    options = {"do_sample": True, "temperature": 2.0, "top_k": 50, "top_p": 0.95}
    together = [r.text for r in ask(loaded(**options))]
    alone = loaded(**options, batch_size=1)
    assert [r.text for r in ask(alone)] == together
    assert [r.text for r in ask(alone, seed=4)] != together


@needs_vllm
@pytest.mark.feature("vllm", "streamed tokens, timed by the engine")
def test_every_token_is_an_event_when_the_engine_has_it(loaded: Any) -> None:
    pipeline = loaded(speaks=True)
    pipeline.submit(SAMPLES[:2], [Query(i, i, 1) for i in range(2)])
    events: list[Event] = []
    while sum(e.response is not None for e in events) < 2:
        events += pipeline.step(1.0)
    for query_id in range(2):
        mine = [e for e in events if e.query_id == query_id]
        assert [e.first_token_id is not None for e in mine] == [True] + [False] * (len(mine) - 1)
        response = mine[-1].response
        assert response is not None
        assert response.text == "".join(e.text or "" for e in mine)
        assert mine[0].first_token_id == response.first_token_id
        assert all(gap > 0 for gap in response.token_gap_s)
        assert response.stages["decode"] == pytest.approx(sum(response.token_gap_s))


@needs_vllm
def test_a_prompt_beyond_the_context_fails_alone_and_answers_stop_at_it(loaded: Any) -> None:
    pipeline = loaded(max_model_len=64, max_new_tokens=256)
    responses = ask(pipeline, [PROMPTS[0], "word " * 200, PROMPTS[6]])
    assert [r.error is None for r in responses] == [True, False, True]
    assert "tokens, the context 64" in str(responses[1].error)
    assert responses[2].num_input_tokens + responses[2].num_units <= 64
    assert responses[2].finish_reason == "length"


@needs_vllm
def test_a_stop_token_ends_an_answer(loaded: Any) -> None:
    (ended,) = ask(loaded(stop=[" is"]), PROMPTS[:1])
    assert ended.text == "the cyan object is"
    assert ended.finish_reason == "stop"


@needs_vllm
def test_a_whole_run_is_valid(suite: SuiteRun) -> None:
    done = suite("--workload", "llm", "--set", "pipeline={name: vllm, batch_size: 8}", *BRIEF)
    assert done.returncode == 0, done.stderr
    report = read_report(done)
    assert report["verdict"] == "VALID"
    assert report["figures"]["exact_match"]["value"] > 0.8
    assert report["effective"]["cache"].endswith("prefix caching off")
    assert {c["name"]: c["result"] for c in report["truth"]}["replay"] == "holds"
    assert "stage_prefill" in report["figures"]


@needs_vllm
@pytest.mark.feature("vllm", "prefix caching off, and counted")
def test_prefix_caching_is_off_unless_requested_and_its_tokens_are_counted(loaded: Any) -> None:
    long = " ".join(PROMPTS)
    off = loaded(block_size=32)
    assert [r.error for _ in range(2) for r in ask(off, [long])] == [None, None]
    assert off._engine.num_cached == 0
    assert off.effective()["cache"].endswith("tokens, prefix caching off")
    assert off.fallbacks() == []
    off._engine.num_cached = 96  # as if tokens had come from a cache all the same
    assert off.effective()["cache"].endswith("prefix caching off, and yet 96 tokens came from it")
    on = loaded(block_size=32, enable_prefix_caching=True)
    first, again = (ask(on, [long])[0].text for _ in range(2))
    assert first == again
    assert on._engine.num_cached >= 64
    assert f"prefix caching on, {on._engine.num_cached} tokens came from it" in on.effective()["cache"]
    assert on.fallbacks() == []


@needs_vllm
@pytest.mark.feature("vllm", "KV cache in fp8")
def test_keys_and_values_are_kept_in_fp8(loaded: Any) -> None:
    pipeline = loaded(kv_cache_dtype="fp8")
    assert [r.error for r in ask(pipeline)] == [None] * len(PROMPTS)
    assert pipeline.effective()["kv_cache"] == "fp8, kept as uint8"
    assert pipeline.fallbacks() == []


@needs_vllm
def test_an_option_that_is_not_effective_is_reported(loaded: Any) -> None:
    pipeline = loaded(attention_backend="FLASH_ATTN", async_scheduling=True)
    assert pipeline.fallbacks() == ["attention is by CPU_ATTN, not FLASH_ATTN", "option async_scheduling is False, not True"]


@needs_vllm
@pytest.mark.feature("vllm", "compiled", note="by torch.compile; CUDA graphs were not recorded")
def test_a_network_is_compiled(loaded: Any) -> None:
    plain = ask(loaded())
    pipeline = loaded(enforce_eager=False)
    assert pipeline.effective()["graphs"] == "compiled by DYNAMO_TRACE_ONCE, CUDA graphs NONE"
    assert [r.text for r in ask(pipeline)] == [r.text for r in plain]


@needs_vllm
@pytest.mark.gpu
@pytest.mark.feature("vllm", "CUDA graphs")
def test_graphs_are_recorded_on_a_gpu() -> None:
    pipeline = load_on_gpu()
    assert not pipeline.effective()["graphs"].endswith("CUDA graphs NONE")
    pipeline.close()


@needs_vllm
def test_this_process_stays_as_it_was(loaded: Any) -> None:
    before = {name: os.environ.get(name) for name in ("LD_PRELOAD", "LOCAL_WORLD_SIZE")}
    loaded()
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    assert torch.get_num_threads() == threads + 1
    torch.set_num_threads(threads)
    assert {name: os.environ.get(name) for name in before} == before


def answers(report_folder: Path) -> dict[int, str]:
    lines = (report_folder / "records.jsonl").read_text(encoding="utf-8").splitlines()
    return {r["sample_index"]: r["text"] for r in map(json.loads, lines)}


@needs_vllm
@pytest.mark.feature("vllm", "tensor parallel by the external launcher")
def test_two_ranks_are_one_engine(suite: SuiteRun, tiny_llama: Path, tmp_path: Path) -> None:
    pipeline = f"pipeline={{model: {tiny_llama}, batch_size: 8, max_new_tokens: 12, name: "
    common = ["--workload", "llm", "--set", "warmup_batches=1", "--set", FREE, *BRIEF]
    suite(*common, "--set", pipeline + "transformers_llm}", "--output", "alone")
    both = suite(*common, "--set", pipeline + "vllm}", "--set", "parallel.tensor=2", "--output", "both", launcher=TWO_RANKS)
    assert both.returncode == 0, both.stderr[-4000:]
    report = read_report(both)
    assert report["verdict"] == "VALID"
    assert report["effective"]["parallel"] == "tensor 2"
    assert len(answers(tmp_path / "alone")) == 8
    assert answers(tmp_path / "both") == answers(tmp_path / "alone")


@needs_vllm
@pytest.mark.feature("vllm", "one engine a rank")
def test_two_ranks_are_two_engines(suite: SuiteRun) -> None:
    done = suite("--workload", "llm", "--set", "pipeline={name: vllm, batch_size: 8}", *BRIEF, launcher=TWO_RANKS)
    assert done.returncode == 0, done.stderr[-4000:]
    report = read_report(done)
    assert report["verdict"] == "VALID"
    assert {c["name"]: c["result"] for c in report["truth"]}["ranks"] == "holds"
