"""What queries set for themselves under continuous batching, on a Llama with random weights, as `suite.py serve` runs it."""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.base import QueryOptions, Response, ServedQuery
from pipelines.embedded.training.llm.models import BUILDERS
from pipelines.models.embedded import LANGUAGE
from pipelines.transformers.llm import TransformersLLM
from workloads.records import Sample

PROMPT = "a red disc moves left. what moves?"
NUMBERS = itertools.count(100)  # one that was cancelled is not used again
COLD = QueryOptions(8, ignore_eos=True)
HOT = QueryOptions(8, ignore_eos=True, temperature=1.0)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TransformersLLM]:
    torch.manual_seed(0)
    folder: Path = tmp_path_factory.mktemp("llama")
    model: Any = BUILDERS["dense"]()
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(LANGUAGE["embedded"] / name, folder)
    pipeline = TransformersLLM(model=str(folder), batch_size=8, max_new_tokens=200)
    pipeline.speaks = pipeline.takes_options = True
    pipeline.load(torch.device("cpu"))
    yield pipeline
    pipeline.close()


def ask(pipeline: TransformersLLM, *queries: tuple[QueryOptions, int]) -> list[Response]:
    """Answers to queries of these options and seeds, in one batch."""
    samples = [Sample(i, PROMPT) for i in range(len(queries))]
    return list(pipeline.generate(samples, [ServedQuery(next(NUMBERS), 0, seed, options) for options, seed in queries]))


@pytest.mark.feature("serve", "sampling, length and end of each request")
def test_each_query_has_its_own_sampling(pipeline: TransformersLLM) -> None:
    cold, one, other = (list(a.token_ids) for a in ask(pipeline, (COLD, 1), (HOT, 1), (HOT, 2)))
    assert len({tuple(cold), tuple(one), tuple(other)}) == 3
    likeliest = QueryOptions(8, ignore_eos=True, temperature=1.0, top_k=1)
    nucleus = QueryOptions(8, ignore_eos=True, temperature=1.0, top_p=1e-6)
    again = [list(a.token_ids) for a in ask(pipeline, (HOT, 2), (likeliest, 3), (COLD, 9), (nucleus, 4), (HOT, 1))]
    assert again == [other, cold, cold, cold, one]


def test_each_query_has_its_own_length_and_end(pipeline: TransformersLLM) -> None:
    whole, short = ask(pipeline, (QueryOptions(40, ignore_eos=True), 1), (QueryOptions(5, ignore_eos=True), 1))
    assert (whole.num_units, short.num_units, short.finish_reason) == (40, 5, "length")
    assert list(whole.token_ids)[:5] == list(short.token_ids)
    assert whole.text is not None
    stop = whole.text[10:13]
    (stopped,) = ask(pipeline, (QueryOptions(40, ignore_eos=True, stop=(stop,)), 1))
    assert (stopped.text, stopped.finish_reason) == (whole.text[: whole.text.index(stop)], "stop")
    ends = pipeline._ends
    (late,) = ask(pipeline, (QueryOptions(30, min_new_tokens=30), 1))
    assert late.num_units == 30
    assert not ends & set(late.token_ids)


def test_a_conversation_is_put_through_the_chat_template(pipeline: TransformersLLM) -> None:
    turns = tuple({"role": role, "content": PROMPT} for role in ("user", "assistant", "user"))
    many, one, bare = ask(pipeline, (QueryOptions(1, messages=turns), 1), (QueryOptions(1), 1), (QueryOptions(1, bare=True), 1))
    assert many.num_input_tokens == len(pipeline._encode(list(turns)))
    assert bare.num_input_tokens < one.num_input_tokens < many.num_input_tokens


def test_a_cancelled_query_leaves_the_engine(pipeline: TransformersLLM) -> None:
    pipeline.submit([Sample(0, PROMPT)], [ServedQuery(7, 0, 1, QueryOptions(200, ignore_eos=True))])
    while not pipeline.step(0.1):
        pass
    active = pipeline._engine._manager.batch_processor.scheduler.active_requests
    assert len(active) == 1
    assert pipeline.cancel(7)
    give_up = time.perf_counter() + 5
    while active and time.perf_counter() < give_up:
        time.sleep(0.01)
    assert not active
    assert not pipeline.step(0.05)
    assert not pipeline.cancel(7)


def test_a_long_prompt_and_a_broken_template_fail_alone(pipeline: TransformersLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.transformers.text_requests.LONG", 100)
    samples = [Sample(0, "red " * 2000), Sample(1, PROMPT + " red" * 40), Sample(2, "red " * 10**6), Sample(3, PROMPT)]
    encode = pipeline._encode

    def broken(prompt: Any, chat: bool = True) -> list[int]:
        if prompt == PROMPT:
            raise TypeError("a broken template")
        return encode(prompt, chat)

    monkeypatch.setattr(pipeline._requests, "_encode", broken)
    long, fits, huge, bad = pipeline.generate(samples, [ServedQuery(i, i, 1, COLD) for i in range(4)])
    assert long.error is not None
    assert "the context 512" in long.error
    assert fits.num_units == 8
    assert huge.error is not None
    assert "no 512 tokens of the context can hold" in huge.error
    assert bad.error == "a broken template"
