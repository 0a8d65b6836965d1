"""The vLLM pipeline, loaded and questioned; which tests need vLLM, and the settings of short runs."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from pipelines.base import Response
from pipelines.vllm.pipeline import Vllm
from tests.conftest import QUICK
from workloads.llm import Language
from workloads.records import Query, Sample, query_seed

_spec = importlib.util.find_spec("vllm")
needs_vllm = pytest.mark.skipif(_spec is None or _spec.origin is None, reason="vLLM is not installed")
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
SAMPLES = Language(num_prompts=9).samples()
PROMPTS = [s.prompt for s in SAMPLES]
BRIEF = [*QUICK, "--set", "load.min_duration_s=0.1", "--set", "load.min_query_count=64", "--set", "num_threads=1"]


def ask(pipeline: Any, prompts: Sequence[str] = PROMPTS, seed: int = 3) -> list[Response]:
    samples = [Sample(i, text) for i, text in enumerate(prompts)]
    return list(pipeline.generate(samples, [Query(i, i, query_seed(seed, i)) for i in range(len(prompts))]))


def load_on_gpu(**options: Any) -> Vllm:
    pipeline = Vllm(**{"max_new_tokens": 16, "dtype": "bfloat16", **options})
    pipeline.load(GPU)
    return pipeline
