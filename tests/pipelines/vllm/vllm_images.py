"""Run by test_images.py in a process of its own, whose PYTHONPATH makes torchvision importable: vLLM's answers about images.

python vllm_images.py OUTPUT      writes a JSON file of what `main` gathers
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import torch

from pipelines.base import Pipeline
from pipelines.transformers.vlm import TransformersVLM
from pipelines.vllm.pipeline import Vllm
from workloads.records import Query, Sample
from workloads.vlm import VisionLanguage

CPU = torch.device("cpu")
KEPT = ("text", "token_ids", "first_token_id", "num_units", "num_input_tokens", "finish_reason", "error")
DRAWN: dict[str, Any] = {"weights": "random", "architecture": "qwen3-vl-235b-a22b"}
SHRUNK: dict[str, Any] = {"layers": 2, "width": "1/16", "experts": 4, "vocabulary": 512}


def ask(pipeline: Pipeline, samples: Sequence[Sample], seed: int = 0) -> list[dict[str, Any]]:
    responses = pipeline.generate(samples, [Query(i, s.index, seed + i) for i, s in enumerate(samples)])
    return [{k: v for k, v in msgspec.structs.asdict(r).items() if k in KEPT} for r in responses]


def with_vllm(samples: Sequence[Sample], **options: Any) -> tuple[list[dict[str, Any]], dict[str, str]]:
    pipeline = Vllm(**{"max_new_tokens": 48, "batch_size": 16, **options})
    pipeline.workload = "vlm"
    pipeline.load(CPU)
    try:
        return ask(pipeline, samples), dict(pipeline.effective())
    finally:
        pipeline.close()


def main() -> None:
    torch.set_num_threads(1)
    samples = VisionLanguage(num_prompts=12).samples()
    peer = TransformersVLM(max_new_tokens=48)
    peer.load(CPU)
    broken = [samples[0], Sample(1, "what is it?", images=(b"no image",)), samples[2]]
    results = {
        "samples": [{k: v for k, v in asdict(s).items() if k == "prompt"} | {"images": len(s.images)} for s in samples],
        "transformers": ask(peer, samples),
        "vllm": with_vllm(samples),
        "broken": with_vllm(broken)[0],
        "random": with_vllm(samples[:3], **DRAWN, shrink=SHRUNK, max_new_tokens=4, max_model_len=512),
    }
    Path(sys.argv[1]).write_text(json.dumps(results, default=list))


if __name__ == "__main__":
    main()
