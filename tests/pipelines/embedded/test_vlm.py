"""The embedded vision-language model, and its training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from metrics.mlperf.accuracy.hierarchical_f1 import category
from pipelines.embedded.training.vlm.language import answer_loss, pack
from pipelines.embedded.training.vlm.model import IMAGE_ID, IMAGE_SETTINGS, build_model, build_tokenizer, patches, use_training_attention
from pipelines.embedded.training.vlm.views import Views
from pipelines.models.embedded import VISION
from pipelines.transformers.vlm import TransformersVLM
from tests.pipelines.transformers.vlm_pipeline import ask, ask_alone, load
from workloads.records import Sample
from workloads.vlm import VisionLanguage, encode_png
from workloads.world.vision import draw_scene, show


def test_training_patches_are_the_image_processors() -> None:
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
    answer = [(places.index(p), t) for r, p, t in batch.targets.tolist() if r == row and batch.segments_BS[row, p] == segment]
    return -sum(float(logits[place].log_softmax(-1)[token]) for place, token in answer)


needs_weights = pytest.mark.skipif(not (VISION / "model.safetensors").exists(), reason="the embedded weights are not there")


@pytest.fixture(scope="module")
def embedded() -> TransformersVLM:
    return load("embedded", max_new_tokens=48)


@pytest.mark.feature("transformers_vlm", "embedded Qwen3-VL")
@needs_weights
def test_the_embedded_model_answers_held_out_scenes_in_a_batch_as_alone(embedded: TransformersVLM) -> None:
    samples = VisionLanguage(num_prompts=32, split="held_out").samples()
    responses = [*ask(embedded, samples[:16]), *ask(embedded, samples[16:])]
    right = [r.text == s.meta["answer"] for r, s in zip(responses, samples, strict=True)]
    assert sum(right) / len(right) >= 0.85  # 0.985 of many more questions: the model card
    assert all(r.finish_reason == "stop" for r in responses)
    assert all(category(r.text) is not None for r, s in zip(responses, samples, strict=True) if s.meta["task"] == "catalogue")
    assert [r.text for r in responses[:8]] == [r.text for r in ask_alone(embedded, samples[:8])]


@needs_weights
def test_the_embedded_model_looks_at_the_picture(embedded: TransformersVLM) -> None:
    samples = [s for s in VisionLanguage(num_prompts=32).samples() if s.meta["task"] == "colour"]
    grey = encode_png(np.full((1, 48, 48, 3), 45, np.uint8))
    blind = ask(embedded, [Sample(s.index, s.prompt, {}, grey) for s in samples])
    assert len({r.text for r in blind}) < len({r.text for r in ask(embedded, samples)})
