"""Our layout of prompts and images, compared with the library's."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.embedded.training.vlm.model import IMAGE_ID, IMAGE_SETTINGS
from pipelines.models.chat_prompts import read_image
from pipelines.transformers.vlm_inputs import Inputs, LibraryInputs, QwenInputs, Row
from tests.pipelines.transformers.vlm_pipeline import png


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="the library's Qwen3-VL processor needs torchvision")
@pytest.mark.parametrize("settings", [IMAGE_SETTINGS, {"patch_size": 16, "size": {"shortest_edge": 65536, "longest_edge": 16777216}}])
def test_our_layout_equals_the_librarys(tiny_qwen: Path, settings: dict[str, Any]) -> None:
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
