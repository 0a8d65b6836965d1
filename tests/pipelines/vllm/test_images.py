"""vLLM on images, in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from configs.errors import ConfigError
from configs.registry import make
from pipelines.vllm.engine_args import import_vllm
from tests.conftest import ROOT, suite_env
from tests.pipelines.vllm.vllm_pipeline import CPU, needs_vllm

TORCHVISION = Path(sys.prefix) / "torchvision"  # where `make test-vllm` puts it, out of the way of all other tests
STAND_IN = "with a torchvision built for CUDA, two of whose operators tests name in its place"


@pytest.fixture(scope="module")
def about_images(tmp_path_factory: pytest.TempPathFactory) -> Any:
    if not TORCHVISION.is_dir():
        pytest.skip("torchvision is not beside this environment; make test-vllm puts it there")
    output = tmp_path_factory.mktemp("images") / "results.json"
    path = os.pathsep.join([str(ROOT / "tests/pipelines/vllm/torchvision_stand_in"), str(TORCHVISION), str(ROOT)])
    command = [sys.executable, str(Path(__file__).with_name("vllm_images.py")), str(output)]
    done = subprocess.run(command, env=suite_env() | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(output.read_text())


@needs_vllm
@pytest.mark.feature("vllm", "vlm, images", note=STAND_IN)
def test_answers_about_images_are_those_of_transformers(about_images: Any) -> None:
    answers, effective = about_images["vllm"]
    assert answers == about_images["transformers"]
    assert max(s["images"] for s in about_images["samples"]) > 1
    assert effective["image_cache"] == "off"


@needs_vllm
def test_a_query_without_a_readable_image_fails_alone(about_images: Any) -> None:
    assert [a["error"] is None for a in about_images["broken"]] == [True, False, True]
    assert "image 1 of 1 is not an image" in about_images["broken"][1]["error"]


@needs_vllm
@pytest.mark.feature("vllm", "random weights, vlm", note=STAND_IN)
def test_a_vision_language_architecture_is_drawn(about_images: Any) -> None:
    answers, effective = about_images["random"]
    assert [a["num_units"] for a in answers] == [4, 4, 4]
    assert effective["model"] == "Qwen3VLMoeForConditionalGeneration"
    assert effective["weights"] == "random"


def test_images_without_torchvision_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "torchvision" else there("json"))
    with pytest.raises(ConfigError, match="vision-language models need torchvision"):
        import_vllm(CPU, "vlm", {})


def test_bare_prompts_about_images_are_refused() -> None:
    pipeline = make("pipelines", "vllm", {"chat": False})
    pipeline.workload = "vlm"
    with pytest.raises(ConfigError, match="chat: false is only for workload llm"):
        pipeline.load(CPU)
