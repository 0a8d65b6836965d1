"""The language pipeline under continuous and static batching, on a Llama and a gpt-oss with random weights."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from configs.errors import ConfigError
from pipelines.base import Event, Response
from pipelines.embedded.training.llm.models import BUILDERS
from pipelines.models.embedded import LANGUAGE
from pipelines.transformers.llm import TransformersLLM
from workloads.llm import Language
from workloads.records import Query, Sample, query_seed

CPU = torch.device("cpu")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
PROMPTS = [s.prompt for s in Language(num_prompts=6).samples()]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random weights, so that every answer runs on to its limit unless chance ends it; the embedded models' tokenizer."""
    folders = {}
    for kind, build in BUILDERS.items():
        torch.manual_seed(0)
        folders[kind] = tmp_path_factory.mktemp(kind)
        model: Any = build()
        model.save_pretrained(folders[kind])
        for name in TOKENIZER:
            shutil.copy(LANGUAGE["embedded"] / name, folders[kind])
    return folders


@pytest.fixture
def loaded(folders: dict[str, Path]) -> Iterator[Any]:
    pipelines = []

    def load(kind: str = "dense", **options: Any) -> TransformersLLM:
        defaults: dict[str, Any] = {"model": str(folders[kind]), "max_new_tokens": 12, "batch_size": 4, "page_size": 16}
        pipeline = TransformersLLM(**(defaults | options))
        pipelines.append(pipeline)
        pipeline.load(CPU)
        return pipeline

    yield load
    for pipeline in pipelines:
        pipeline.close()


def ask(pipeline: TransformersLLM, prompts: Sequence[str] = PROMPTS, seed: int = 3) -> list[Response]:
    samples = [Sample(i, text) for i, text in enumerate(prompts)]
    return list(pipeline.generate(samples, [Query(i, i, query_seed(seed, i)) for i in range(len(prompts))]))


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("dense", marks=pytest.mark.feature("transformers_llm", "Llama, continuous and static batching")),
        pytest.param("moe", marks=pytest.mark.feature("transformers_llm", "gpt-oss, continuous and static batching")),
    ],
)
@pytest.mark.parametrize("batching", ["continuous", "static"])
def test_greedy_answers_are_those_of_plain_generate(loaded: Any, kind: str, batching: str) -> None:
    pipeline = loaded(kind, batching=batching)
    responses = ask(pipeline)
    pipeline.close()
    pipeline._model.set_attn_implementation("eager")
    for text, response in zip(PROMPTS, responses, strict=True):
        ids = torch.tensor([pipeline._encode(text)])
        out = pipeline._model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
        assert response.text == pipeline._tokenizer.decode(out, skip_special_tokens=True)
        assert response.num_units == len(out)
        assert response.num_input_tokens == ids.shape[1]
        assert response.first_token_id == int(out[0])
        assert len(response.token_gap_s) == response.num_units - 1
        assert response.finish_reason == "length"


@pytest.mark.feature("transformers_llm", "seeded sampling")
def test_sampled_answers_depend_on_the_seed_and_not_on_the_batch(loaded: Any) -> None:
    options = {"do_sample": True, "temperature": 0.8, "top_k": 50, "top_p": 0.9}
    together = [r.text for r in ask(loaded(**options))]
    assert [r.text for r in ask(loaded(batching="static", **options))] == together
    alone = loaded(batch_size=1, **options)
    assert [r.text for r in ask(alone)] == together
    assert [r.text for r in ask(alone, PROMPTS[:1], seed=4)] != together[:1]


@pytest.mark.feature("transformers_llm", "streamed first tokens")
@pytest.mark.parametrize("batching", ["continuous", "static"])
def test_first_tokens_come_before_their_answers(loaded: Any, batching: str) -> None:
    pipeline = loaded(batching=batching)
    pipeline.submit([Sample(0, PROMPTS[0]), Sample(1, PROMPTS[1])], [Query(0, 0, 1), Query(1, 1, 1)])
    events: list[Event] = []
    while sum(e.response is not None for e in events) < 2:
        events += pipeline.step(1.0)
    for query_id in (0, 1):
        kinds = [e.response is None for e in events if e.query_id == query_id]
        assert kinds == [True, False]


def test_a_prompt_beyond_the_context_fails_alone_and_answers_stop_at_it(loaded: Any) -> None:
    responses = ask(loaded(context=64, max_new_tokens=256), ["count from 1 to 3.", "word " * 200, "count from 2 to 9."])
    assert [r.error is None for r in responses] == [True, False, True]
    assert "tokens, the context 64" in str(responses[1].error)
    assert [r.num_input_tokens + r.num_units for r in (responses[0], responses[2])] == [64, 64]
    assert responses[0].finish_reason == "length"


def test_a_stop_token_ends_an_answer(loaded: Any) -> None:
    (ended,) = ask(loaded(model="embedded", stop=[" is"]), PROMPTS[:1])
    assert ended.text == "the cyan object is"
    assert ended.finish_reason == "stop"


@pytest.mark.parametrize("batching", ["continuous", "static"])
def test_an_engine_that_breaks_fails_its_queries(loaded: Any, batching: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = loaded(batching=batching)

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("the device is on fire")

    monkeypatch.setattr(pipeline._model, "forward", broken)
    if batching == "static":
        assert ["on fire" in str(r.error) for r in ask(pipeline, PROMPTS[:2])] == [True, True]
    else:
        try:
            errors = [str(r.error) for r in ask(pipeline, PROMPTS[:2])]
        except RuntimeError as error:  # the engine's thread is gone; the worker fails what was running
            errors = [str(error)]
        assert all("on fire" in text for text in errors)


def test_a_model_without_a_chat_template_names_the_option_for_bare_prompts(folders: dict[str, Path], tmp_path: Path) -> None:
    for file in folders["dense"].iterdir():
        if file.name != "chat_template.jinja":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ConfigError, match=r"has no chat template; give it bare prompts with --set pipeline\.chat=false"):
        TransformersLLM(model=str(tmp_path)).load(CPU)


def test_a_tokenizer_of_another_model_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    small: Any = LlamaForCausalLM(
        LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    )
    small.save_pretrained(tmp_path)
    for name in TOKENIZER:
        (tmp_path / name).write_bytes((folders["dense"] / name).read_bytes())
    with pytest.raises(ConfigError, match=r"token ids up to \d+, but the network has only 64 tokens"):
        TransformersLLM(model=str(tmp_path)).load(CPU)


@pytest.mark.parametrize(
    ("name", "message"),
    [("config.json", "config.json is missing"), ("model.safetensors", "has no .safetensors file"), ("tokenizer.json", "has no tokenizer")],
)
def test_an_incomplete_folder_names_what_is_missing(folders: dict[str, Path], tmp_path: Path, name: str, message: str) -> None:
    for file in folders["dense"].iterdir():
        if file.name != name:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ConfigError, match=message):
        TransformersLLM(model=str(tmp_path)).load(CPU)


def test_an_unreachable_hub_name_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        ConfigError,
        match=r"model 'nobody/nothing' cannot be loaded: .*`hf download nobody/nothing`.*built in: embedded, embedded-moe, ",
    ):
        TransformersLLM(model="nobody/nothing").load(CPU)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be positive, got 0"),
        ({"top_p": 1.5}, "top_p must be above 0 and at most 1, got 1.5"),
        ({"temperature": 0.5}, "need do_sample: true"),
        ({"chat": False, "system_prompt": "be brief"}, "needs chat: true"),
    ],
)
def test_an_invalid_option_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TransformersLLM(**options)


def test_effective_settings_are_read_back(loaded: Any) -> None:
    effective = loaded("moe").effective()
    assert effective["model"] == "GptOssForCausalLM"
    assert effective["attention"] == "paged|eager"
    assert effective["sampling"] == "greedy"
    assert loaded("moe").fallbacks() == []
