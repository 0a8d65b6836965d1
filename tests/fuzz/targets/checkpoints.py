"""Checkpoints' JSON files and headers of safetensors, and published architectures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from pipelines.models.architectures import ARCHITECTURES, Shrink, diffusers_values, transformers_values
from pipelines.models.checkpoint import check_diffusers_folder, check_transformers_folder, weight_files
from pipelines.vllm.checkpoint import convert_for_vllm
from tests.fuzz.fuzzing import Target

INDEX = {"metadata": {"total_size": 16}, "weight_map": {"a.weight": "model.safetensors", "b.weight": "model.safetensors"}}
CONFIG = {"model_type": "llama", "hidden_size": 4, "num_hidden_layers": 1, "rope_parameters": {"rope_type": "default"}}
PARTS = {
    "_class_name": "WanPipeline",
    "transformer": ["diffusers", "WanTransformer3DModel"],
    "scheduler": [None, None],
    "boundary_ratio": 0.9,
}


def targets(place: Path) -> list[Target]:
    language, video = place / "language", place / "video"
    (video / "transformer").mkdir(parents=True)
    language.mkdir()
    for folder in (language, video / "transformer"):
        save_file({"a.weight": np.ones((2, 2), np.float32), "b.weight": np.ones(4, np.float32)}, folder / "model.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps(INDEX), encoding="utf-8")
        (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    (language / "tokenizer.json").write_text("{}", encoding="utf-8")
    (video / "model_index.json").write_text(json.dumps(PARTS), encoding="utf-8")
    inputs = {str(file.relative_to(place)): file.read_bytes() for file in sorted(place.rglob("*")) if file.is_file()}

    def read_checkpoint(name: str, content: bytes) -> None:
        file = place / name
        file.write_bytes(content)
        try:
            if name.startswith("video"):
                check_diffusers_folder(video)
            else:
                check_transformers_folder(language)
                weight_files(language)
                if (made := convert_for_vllm(language)) is not None:
                    shutil.rmtree(made)
        finally:
            file.write_bytes(inputs[name])

    published = place / "published"
    architectures = {}
    for folder in sorted(ARCHITECTURES.iterdir()):
        if folder.is_dir():
            shutil.copytree(folder, published / folder.name, ignore=shutil.ignore_patterns("tokenizer*"))
            for file in sorted((published / folder.name).rglob("*.json")):
                if file.name in ("config.json", "model_index.json"):
                    architectures[str(file.relative_to(published))] = file.read_bytes()

    def read_architecture(name: str, content: bytes) -> None:
        file = published / name
        file.write_bytes(content)
        folder = published / name.partition("/")[0]
        try:
            shrink = Shrink.parse({"layers": 2, "width": "1/16", "vocabulary": 512})
            if (folder / "model_index.json").exists():
                diffusers_values(folder, shrink)
            else:
                transformers_values(folder, shrink)
        finally:
            file.write_bytes(architectures[name])

    return [Target("checkpoint", inputs, read_checkpoint, 20), Target("architecture", architectures, read_architecture, 10)]
