"""The transformers vision-language pipeline: on a Qwen3-VL and a LLaVA with random weights, and on the embedded model."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from configs.errors import ConfigError
from metrics.mlperf.accuracy.hierarchical_f1 import category
from pipelines.base import Response
from pipelines.embedded.training.vlm.language import answer_loss, pack
from pipelines.embedded.training.vlm.model import (
    END_ID,
    IMAGE_ID,
    IMAGE_SETTINGS,
    build_model,
    build_tokenizer,
    patches,
    save,
    use_training_attention,
)
from pipelines.embedded.training.vlm.views import Views
from pipelines.models.embedded import VISION
from pipelines.transformers.vlm import TransformersVLM
from pipelines.transformers.vlm_inputs import Inputs, LibraryInputs, QwenInputs, Row
from workloads.records import Query, Sample
from workloads.vlm import VisionLanguage, encode_png
from workloads.world.vision import draw_scene, show

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tiny_qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen3-VL of the embedded model's shape with random weights."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny-qwen")
    save(build_model(), build_tokenizer(["what colour is it?", "red", "blue"]), folder)
    return folder


@pytest.fixture(scope="module")
def tiny_llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA with random weights: a model whose processor the library can build without torchvision."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = CLIPVisionConfig(image_size=24, patch_size=6, projection_dim=32, **sizes)
    config = LlavaConfig(vision_config=vision, text_config=LlamaConfig(vocab_size=512, **sizes), image_token_index=IMAGE_ID)
    model: Any = LlavaForConditionalGeneration(config)
    model.generation_config.update(eos_token_id=END_ID, pad_token_id=0)
    images = CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24})
    settings: dict[str, Any] = {"patch_size": 6, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    template = (
        "{% for m in messages %}{% for p in m.content %}{{ '<|image_pad|>' if p.type == 'image' else p.text }}{% endfor %}{% endfor %}"
    )
    processor: Any = LlavaProcessor(images, build_tokenizer(["red"]), chat_template=template, image_token="<|image_pad|>", **settings)
    folder = tmp_path_factory.mktemp("tiny-llava")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def samples() -> Sequence[Sample]:
    return VisionLanguage(num_prompts=8).samples()


def load(folder: Path | str, **options: Any) -> TransformersVLM:
    pipeline = TransformersVLM(model=str(folder), **{"max_new_tokens": 8, **options})
    pipeline.load(CPU)
    return pipeline


def ask(pipeline: TransformersVLM, samples: Sequence[Sample], seed: int = 0) -> Sequence[Response]:
    return pipeline.generate(samples, [Query(i, s.index, seed + s.index) for i, s in enumerate(samples)])


def ask_alone(pipeline: TransformersVLM, samples: Sequence[Sample], seed: int = 0) -> list[Response]:
    return [ask(pipeline, [sample], seed)[0] for sample in samples]


def png(width: int, height: int, smooth: bool = False, seed: int = 0) -> bytes:
    """A picture of noise, or of a few soft blots."""
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    if smooth:
        image = image.resize((max(2, width // 8), max(2, height // 8))).resize((width, height), Image.Resampling.BICUBIC)
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


# --- answers ---


@pytest.mark.feature("transformers_vlm", "Qwen3-VL and LLaVA, images, in batches")
@pytest.mark.parametrize("model", ["tiny_qwen", "tiny_llava"])
def test_a_batch_answers_as_each_query_alone(model: str, samples: Sequence[Sample], request: pytest.FixtureRequest) -> None:
    pipeline = load(request.getfixturevalue(model))
    together, alone = ask(pipeline, samples), ask_alone(pipeline, samples)
    assert len({r.num_input_tokens for r in together}) > 2  # prompts of several lengths: the batch is padded
    for field in ("text", "num_units", "num_input_tokens", "first_token_id", "finish_reason", "error"):
        assert [getattr(r, field) for r in together] == [getattr(r, field) for r in alone]
    assert all(r.finite for r in together)


def test_greedy_answers_are_those_of_the_library_s_own_generate(tiny_qwen: Path, samples: Sequence[Sample]) -> None:
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
def test_a_drawn_answer_depends_on_its_seed_and_not_on_its_batch(tiny_qwen: Path, samples: Sequence[Sample]) -> None:
    pipeline = load(tiny_qwen, do_sample=True, temperature=1.5, top_k=100, top_p=0.95)
    first, again, alone, other = ask(pipeline, samples), ask(pipeline, samples), ask_alone(pipeline, samples), ask(pipeline, samples, 999)
    assert [r.text for r in first] == [r.text for r in again] == [r.text for r in alone]
    assert sum(a.text == b.text for a, b in zip(first, other, strict=True)) < 3
    assert pipeline.effective()["decoding"] == "sampled by the query's seed, temperature 1.5, top_k 100, top_p 0.95"


def test_one_likely_token_is_what_greedy_takes(tiny_qwen: Path, samples: Sequence[Sample]) -> None:
    greedy, drawn = load(tiny_qwen), load(tiny_qwen, do_sample=True, top_k=1)
    assert [r.text for r in ask(greedy, samples)] == [r.text for r in ask(drawn, samples)]


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
    plain, told = load(tiny_qwen), load(tiny_qwen, system_prompt="be brief")
    assert ask(told, samples[:1])[0].num_input_tokens > ask(plain, samples[:1])[0].num_input_tokens
    assert "be brief" in told._inputs.render("x", 1, told.system_prompt)


def test_numbers_that_are_not_finite_are_told(tiny_qwen: Path, samples: Sequence[Sample]) -> None:
    pipeline = load(tiny_qwen)
    with torch.no_grad():
        pipeline._model.model.language_model.norm.weight.fill_(float("nan"))
    assert not any(r.finite for r in ask(pipeline, samples[:2]))


# --- queries that cannot be answered ---


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
        "image 1 of 1 is no image (12 bytes that begin with b'not an i')",
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


# --- what is in force ---


def test_what_is_in_force_is_read_back(tiny_qwen: Path, tiny_llava: Path) -> None:
    pipeline = load(tiny_qwen, dtype="bfloat16", attn_implementation="eager")
    effective = pipeline.effective()
    assert (effective["model"], effective["dtype"]) == ("Qwen3VLForConditionalGeneration", "bfloat16")
    assert (effective["attention"], effective["decoding"], effective["quantisation"]) == ("eager", "greedy", "none")
    assert pipeline.fallbacks() == []
    assert load(tiny_llava).effective()["processor"] == "LlavaProcessor"


def test_a_fallback_is_told(tiny_qwen: Path) -> None:
    pipeline = load(tiny_qwen)
    pipeline.dtype, pipeline.attn_implementation = "float16", "flash_attention_2"
    assert pipeline.fallbacks() == ["dtype is float32, not float16", "attention is sdpa, not flash_attention_2"]


# --- what cannot be loaded ---


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


def _without(*names: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return damage


def _broken_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"x" * 99)


def _with_tokens(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"<|{i}|>" for i in range(600)])
    tokenizer.save_pretrained(folder)


def _with_image_token(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"image_token_id": 300}))


def _with_fewer_weights(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["model.visual.pos_embed.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def _as_text_model(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 512}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without("config.json"), "is incomplete: config.json is missing; restore it"),
        (_without("model.safetensors"), "is incomplete: it has no .safetensors file; restore it"),
        (_broken_weights, "model.safetensors' is damaged"),
        (_without("tokenizer.json"), r"has no tokenizer \(one of tokenizer.json"),
        (_without("preprocessor_config.json", "video_preprocessor_config.json"), "cannot be loaded: .*preprocessor_config.json"),
        (_without("chat_template.jinja"), "has no chat template; put its chat_template.jinja beside it, or name one: chat_template: FILE"),
        (_with_tokens, r"token ids up to \d{3}, but the network has only 512 tokens; give the tokenizer"),
        (_with_image_token, "give no token 300, which stands for an image; give the tokenizer and template"),
        (_with_fewer_weights, "is incomplete: it lacks 1 weights, the first is 'model.visual.pos_embed.weight'; restore it"),
        (_as_text_model, "is a 'llama', which does not answer about images"),
    ],
)
def test_a_damaged_checkpoint_is_told_with_the_fix(tiny_qwen: Path, tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_qwen, folder)
    damage(folder)
    with pytest.raises(ConfigError, match=message):
        load(folder)


def test_a_missing_chat_template_can_be_given(tiny_qwen: Path, tmp_path: Path, samples: Sequence[Sample]) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_qwen, folder)
    template = (folder / "chat_template.jinja").rename(tmp_path / "mine.jinja")
    assert ask(load(folder, chat_template=str(template)), samples[:1])[0].text == ask(load(tiny_qwen), samples[:1])[0].text
    with pytest.raises(ConfigError, match=r"chat_template .* cannot be read"):
        load(tiny_qwen, chat_template=str(tmp_path / "none.jinja"))


def test_a_folder_that_is_not_there_is_told() -> None:
    with pytest.raises(ConfigError, match="'/no/such/folder' is not a folder; give a folder written by save_pretrained"):
        load("/no/such/folder")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("GatedRepoError", "is gated; accept its terms on the hub, then run `hf auth login` or set HF_TOKEN"),
        ("RepositoryNotFoundError", "the hub has no such model, or it is private"),
        ("LocalEntryNotFoundError", "is not on this disk and the hub cannot be reached; run `hf download org/model`"),
    ],
)
def test_what_the_hub_refuses_is_told_with_the_fix(monkeypatch: pytest.MonkeyPatch, kind: str, message: str) -> None:
    from transformers import AutoConfig

    def refuse(*_: object, **__: object) -> None:
        try:
            raise type(kind, (OSError,), {})("the hub's words")
        except OSError as error:
            raise OSError("the library's words\nand more") from error

    monkeypatch.setattr(AutoConfig, "from_pretrained", refuse)
    with pytest.raises(ConfigError, match=message):
        load("org/model")


# --- our layout of prompts and the library's ---


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="the library's Qwen3-VL processor needs torchvision")
@pytest.mark.parametrize("settings", [IMAGE_SETTINGS, {"patch_size": 16, "size": {"shortest_edge": 65536, "longest_edge": 16777216}}])
def test_our_layout_equals_the_library_s(tiny_qwen: Path, settings: dict[str, Any]) -> None:
    """Run with torchvision 0.28.0 beside torch 2.13.0+cpu and transformers 5.23.0."""
    from transformers import AutoTokenizer, Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    tokenizer = AutoTokenizer.from_pretrained(tiny_qwen)
    template = tokenizer.chat_template
    settings = {**IMAGE_SETTINGS, **settings}
    library: Any = Qwen3VLProcessor(Qwen2VLImageProcessor(**settings), tokenizer, Qwen3VLVideoProcessor(), chat_template=template)
    theirs, ours = LibraryInputs(library, template), QwenInputs(Qwen2VLImageProcessorPil(**settings), tokenizer, IMAGE_ID, template)
    side = settings["patch_size"] * 2
    few, many = ((4, 4), (2, 8)) if side == 12 else ((8, 10), (9, 8))
    exact = [[png(few[0] * side, few[1] * side)] * 3, [png(many[0] * side, many[1] * side)]]
    resized = [[png(30, 70, True), png(48, 48, True)], [png(200, 100, True)], [png(640, 480, True)]]
    _same_inputs(theirs, ours, exact, levels=1e-4)
    _same_inputs(theirs, ours, resized, levels=1.01)
    _same_inputs(theirs, ours, [[]], levels=0)


def _same_inputs(theirs: Inputs, ours: Inputs, pictures: Sequence[Sequence[bytes]], levels: float) -> None:
    """Everything equal, and pixels to so many of 256 grey levels."""
    from pipelines.models.chat_prompts import read_image

    def encode(inputs: Inputs) -> dict[str, torch.Tensor]:
        images = [[read_image(data, "it") for data in row] for row in pictures]
        rows = [Row(i, inputs.render("what is it? " * (i + 1), len(row), None), row) for i, row in enumerate(images)]
        return {k: torch.as_tensor(v) for k, v in inputs.encode(rows).items()}

    a, b = encode(theirs), encode(ours)
    assert a.keys() == b.keys()
    for name in a.keys() - {"pixel_values"}:
        assert torch.equal(a[name].long(), b[name].long()), name
    if "pixel_values" in a:
        assert (a["pixel_values"] - b["pixel_values"]).abs().max() * 127.5 <= levels


# --- the embedded model and its training ---


def test_training_patches_are_the_image_processor_s() -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    frames = np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3), dtype=np.uint8)
    wanted = Qwen2VLImageProcessorPil(**IMAGE_SETTINGS)(images=[Image.fromarray(f) for f in frames], return_tensors="pt")
    pixels, grid = patches(torch.from_numpy(frames))
    assert torch.allclose(pixels, wanted["pixel_values"], atol=1e-6)
    assert torch.equal(grid, wanted["image_grid_thw"])


@pytest.mark.parametrize(("kind", "tasks"), [("colour", ("colour", "catalogue", "count")), ("direction", ("speed", "direction"))])
def test_questions_side_by_side_cost_what_they_cost_alone(kind: str, tasks: tuple[str, ...]) -> None:
    """The packed training batch, with training's attention, gives the loss of the model itself on each question alone."""
    torch.manual_seed(0)
    model, tokenizer = build_model(), build_tokenizer(["red"])
    rng = np.random.default_rng(0)
    scenes = [draw_scene(rng, kind, "train") for _ in range(2)]
    views = Views(np.stack([show(rng, kind, scene) for scene in scenes]), scenes)
    restore = use_training_attention(model)
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        batch = pack(model, tokenizer, views, tasks, np.random.default_rng(1), 2)
        packed = answer_loss(model, batch, precise=True).loss.item()
    restore()
    losses = []
    for row in range(2):
        for segment in range(1, 1 + len(tasks)):
            losses.append(_loss_alone(model, batch, row, segment))
    assert packed == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def _loss_alone(model: Any, batch: Any, row: int, segment: int) -> float:
    """Negative log probability of one answer, prefix and question unpacked, by the model's own attention and positions."""
    places = [p for p in range(batch.ids_BS.shape[1]) if batch.segments_BS[row, p] in (0, segment)]
    ids = batch.ids_BS[row, places][None]
    num_images = len(batch.frames_NHWC) // 2
    pixels, grid = patches(batch.frames_NHWC[row * num_images : (row + 1) * num_images])
    with torch.no_grad():
        logits = model(ids, pixel_values=pixels, image_grid_thw=grid, mm_token_type_ids=(ids == IMAGE_ID).int()).logits[0]
    said = [(places.index(p), t) for r, p, t in batch.targets.tolist() if r == row and batch.segments_BS[row, p] == segment]
    return -sum(float(logits[place].log_softmax(-1)[token]) for place, token in said)


needs_weights = pytest.mark.skipif(not (VISION / "model.safetensors").exists(), reason="the embedded weights are not there")


@pytest.mark.feature("transformers_vlm", "embedded Qwen3-VL")
@needs_weights
def test_the_embedded_model_answers_held_out_scenes() -> None:
    samples = VisionLanguage(num_prompts=64, split="held_out").samples()
    pipeline = load("embedded", max_new_tokens=48)
    responses = [r for first in range(0, 64, 16) for r in ask(pipeline, samples[first : first + 16])]
    right = [r.text == s.meta["answer"] for r, s in zip(responses, samples, strict=True)]
    assert sum(right) / len(right) >= 0.85  # the model card says what many more questions give
    assert all(r.finish_reason == "stop" for r in responses)
    assert all(category(r.text) is not None for r, s in zip(responses, samples, strict=True) if s.meta["task"] == "catalogue")


@needs_weights
def test_the_embedded_model_answers_a_batch_as_each_alone() -> None:
    samples = VisionLanguage(num_prompts=16).samples()
    pipeline = load("embedded", max_new_tokens=48)
    assert [r.text for r in ask(pipeline, samples)] == [r.text for r in ask_alone(pipeline, samples)]


@needs_weights
def test_the_embedded_model_looks_at_the_picture() -> None:
    samples = [s for s in VisionLanguage(num_prompts=32).samples() if s.meta["task"] == "colour"]
    grey = encode_png(np.full((1, 48, 48, 3), 45, np.uint8))
    pipeline = load("embedded")
    blind = ask(pipeline, [Sample(s.index, s.prompt, {}, grey) for s in samples])
    assert len({r.text for r in blind}) < len({r.text for r in ask(pipeline, samples)})
