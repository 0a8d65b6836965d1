"""The vision-language pipeline, loaded and questioned; for tests of it and of the embedded model."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipelines.base import Response
from pipelines.transformers.vlm import TransformersVLM
from workloads.records import Query, Sample

CPU = torch.device("cpu")


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
