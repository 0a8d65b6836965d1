"""The vision-language pipeline's answers, on a Qwen3-VL and a LLaVA with random weights."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from configs.errors import ConfigError
from pipelines.embedded.training.vlm.model import END_ID, IMAGE_ID, patches
from pipelines.transformers.vlm import TransformersVLM
from tests.pipelines.transformers.vlm_pipeline import ask, ask_alone, load, png
from workloads.records import Sample


@pytest.mark.feature("transformers_vlm", "Qwen3-VL and LLaVA, images, in batches")
@pytest.mark.parametrize("model", ["tiny_qwen", "tiny_llava"])
def test_a_batch_answers_as_each_query_alone(model: str, samples: Sequence[Sample], request: pytest.FixtureRequest) -> None:
    pipeline = load(request.getfixturevalue(model))
    together, alone = ask(pipeline, samples), ask_alone(pipeline, samples)
    assert len({r.num_input_tokens for r in together}) > 2  # prompts of several lengths: the batch is padded
    for field in ("text", "num_units", "num_input_tokens", "first_token_id", "finish_reason", "error"):
        assert [getattr(r, field) for r in together] == [getattr(r, field) for r in alone]
    assert all(r.finite for r in together)


def test_greedy_answers_are_those_of_the_librarys_own_generate(tiny_qwen: Path, samples: Sequence[Sample]) -> None:
    pipeline = load(tiny_qwen)
    response = ask(pipeline, samples[5:6])[0]
    frames = torch.from_numpy(np.stack([np.asarray(Image.open(BytesIO(image))) for image in samples[5].images]))
    pixels, grid = patches(frames)
    ids = pipeline._tokenizer(pipeline._inputs.render(samples[5].prompt, len(frames), None).replace("<|image_pad|>", "<|image_pad|>" * 16))
    ids_BS = torch.tensor([ids["input_ids"]])
    kinds = (ids_BS == IMAGE_ID).int()
    out = pipeline._model.generate(
        ids_BS, pixel_values=pixels, image_grid_thw=grid, mm_token_type_ids=kinds, max_new_tokens=8, do_sample=False
    )
    assert response.num_input_tokens == ids_BS.shape[1]
    assert response.first_token_id == out[0, ids_BS.shape[1]]
    assert response.text == pipeline._tokenizer.decode(out[0, ids_BS.shape[1] :], skip_special_tokens=True)


@pytest.mark.feature("transformers_vlm", "seeded sampling")
def test_a_sampled_answer_depends_on_its_seed_and_not_on_its_batch(tiny_qwen: Path, samples: Sequence[Sample]) -> None:
    pipeline = load(tiny_qwen, do_sample=True, temperature=1.5, top_k=100, top_p=0.95)
    first, again, alone, other = ask(pipeline, samples), ask(pipeline, samples), ask_alone(pipeline, samples), ask(pipeline, samples, 999)
    assert [r.text for r in first] == [r.text for r in again] == [r.text for r in alone]
    assert sum(a.text == b.text for a, b in zip(first, other, strict=True)) < 3
    assert pipeline.effective()["decoding"] == "sampled by the query's seed, temperature 1.5, top_k 100, top_p 0.95"


def test_sampling_from_the_likeliest_token_alone_is_greedy(tiny_qwen: Path, samples: Sequence[Sample]) -> None:
    greedy, sampled = load(tiny_qwen), load(tiny_qwen, do_sample=True, top_k=1)
    assert [r.text for r in ask(greedy, samples[:3])] == [r.text for r in ask(sampled, samples[:3])]


def test_an_end_token_counts_and_stops(tiny_qwen: Path, samples: Sequence[Sample]) -> None:
    pipeline = load(tiny_qwen)
    first = ask(pipeline, samples[:1])[0]
    assert (first.finish_reason, first.num_units) == ("length", 8)
    pipeline._generation.eos_token_id = [END_ID, first.first_token_id]
    stopped = ask(pipeline, samples[:1])[0]
    assert (stopped.finish_reason, stopped.num_units, stopped.first_token_id) == ("stop", 1, first.first_token_id)


def test_stages_are_preprocessing_prefill_and_decoding(tiny_qwen: Path, samples: Sequence[Sample]) -> None:
    stages = ask(load(tiny_qwen), samples[:4])[0].stages
    assert list(stages) == ["preprocess", "prefill", "decode"]
    assert all(seconds > 0 for seconds in stages.values())


def test_the_system_prompt_is_part_of_the_prompt(tiny_qwen: Path, samples: Sequence[Sample]) -> None:
    plain, brief = load(tiny_qwen), load(tiny_qwen, system_prompt="be brief")
    assert ask(brief, samples[:1])[0].num_input_tokens > ask(plain, samples[:1])[0].num_input_tokens
    assert "be brief" in brief._inputs.render("x", 1, brief.system_prompt)


def test_logits_that_are_not_finite_are_reported(tiny_qwen: Path, samples: Sequence[Sample]) -> None:
    pipeline = load(tiny_qwen)
    with torch.no_grad():
        pipeline._model.model.language_model.norm.weight.fill_(float("nan"))
    assert not any(r.finite for r in ask(pipeline, samples[:2]))


def test_a_query_that_cannot_be_answered_fails_alone(tiny_qwen: Path, samples: Sequence[Sample]) -> None:
    pipeline = load(tiny_qwen)
    good, image = samples[0], samples[0].images[0]
    batch = [
        Sample(0, "x", {}, (b"not an image",)),
        good,
        Sample(1, "x", {}, (image, image[:300])),
        Sample(2, "x " * 1200, {}, (image,)),
        Sample(3, "see <|image_pad|>", {}, (image,)),
        Sample(4, "x", {}, (png(2, 900),)),
        Sample(5, "no image at all", {}, ()),
    ]
    responses = ask(pipeline, batch)
    wanted = [
        "image 1 of 1 is not an image (12 bytes that begin with b'not an i')",
        None,
        "image 2 of 2 cannot be read: ",
        "over the model's 1024",
        "the prompt has 2 image tokens for 1 images; leave '<|image_pad|>' out",
        "aspect ratio must be smaller than 200",
        None,
    ]
    for response, message in zip(responses, wanted, strict=True):
        assert (message is None) == (response.error is None), response
        assert message is None or message in str(response.error)
    assert responses[1].text == ask(pipeline, [good])[0].text
    assert [r.error is None for r in ask(pipeline, batch[:1])] == [False]  # a batch of which nothing is left


def test_effective_settings_are_read_back(tiny_qwen: Path, tiny_llava: Path) -> None:
    pipeline = load(tiny_qwen, dtype="bfloat16", attn_implementation="eager")
    effective = pipeline.effective()
    assert (effective["model"], effective["dtype"]) == ("Qwen3VLForConditionalGeneration", "bfloat16")
    assert (effective["attention"], effective["decoding"], effective["quantisation"]) == ("eager", "greedy", "none")
    assert pipeline.fallbacks() == []
    assert load(tiny_llava).effective()["processor"] == "LlavaProcessor"


def test_a_fallback_is_reported(tiny_qwen: Path) -> None:
    pipeline = load(tiny_qwen)
    pipeline.dtype, pipeline.attn_implementation = "float16", "flash_attention_2"
    assert pipeline.fallbacks() == ["dtype is float32, not float16", "attention is sdpa, not flash_attention_2"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be positive, got 0"),
        ({"max_new_tokens": 0}, "max_new_tokens must be positive, got 0"),
        ({"do_sample": True, "top_p": 1.5}, "top_p must be above 0 and at most 1, got 1.5"),
        ({"temperature": 0.7}, "temperature, top_k and top_p need do_sample: true"),
    ],
)
def test_an_option_out_of_range_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TransformersVLM(**options)
