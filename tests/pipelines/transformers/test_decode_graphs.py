"""Decoding steps that are replayed: on a CPU, where a replay is the step once more with the tensors it was captured with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from transformers.modeling_outputs import CausalLMOutputWithPast

from pipelines.base import Pipeline, Response
from pipelines.transformers import decode_graphs
from pipelines.transformers.decode_graphs import DecodeGraphs, make_graphs
from pipelines.transformers.llm import TransformersLLM
from pipelines.transformers.vlm import TransformersVLM
from workloads.llm import Language
from workloads.records import Query, Sample
from workloads.vlm import VisionLanguage

CPU = torch.device("cpu")


class Recorder:
    """Stands for torch.cuda.graph: captures and replays are counted."""

    def __init__(self) -> None:
        self.captures, self.replays = 0, 0

    def __call__(self, step: Callable[[], Any], pool: Any) -> tuple[Any, Callable[[], None]]:
        self.captures += 1
        output = CausalLMOutputWithPast()

        def replay() -> None:
            self.replays += 1
            for name, value in step().items():
                output[name] = value

        return output, replay


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(decode_graphs, "make_graphs", lambda model: DecodeGraphs(model, recorder))
    return recorder


def answers(pipeline: Pipeline, samples: Sequence[Sample], size: int = 4) -> list[tuple[str | None, int]]:
    pipeline.load(CPU)
    responses: list[Response] = []
    try:
        for first in range(0, len(samples), size):
            batch = samples[first : first + size]
            responses += pipeline.generate(batch, [Query(first + i, first + i, first + i) for i in range(len(batch))])
    finally:
        pipeline.close()
    return [(r.text, r.num_units) for r in responses]


@pytest.mark.parametrize("do_sample", [False, True])
def test_a_language_models_answers_are_the_same(do_sample: bool, recorder: Recorder) -> None:
    samples, options = list(Language(num_prompts=10).samples()), {"batching": "static", "batch_size": 4, "max_new_tokens": 24}
    replayed = answers(TransformersLLM(do_sample=do_sample, **options), samples)  # type: ignore[arg-type]
    plain = answers(TransformersLLM(do_sample=do_sample, use_cuda_graph=False, **options), samples)  # type: ignore[arg-type]
    assert replayed == plain
    assert recorder.captures == 2  # batches of four rows, and the last of two
    assert recorder.replays > 40


def test_a_vision_language_models_answers_are_the_same(recorder: Recorder) -> None:
    samples = list(VisionLanguage(num_prompts=8).samples())
    replayed = answers(TransformersVLM(max_new_tokens=16), samples)
    assert recorder.replays > 10
    assert replayed == answers(TransformersVLM(max_new_tokens=16, use_cuda_graph=False), samples)


def test_caches_of_about_the_same_length_are_one_and_old_ones_go(recorder: Recorder) -> None:
    pipeline = TransformersLLM(batching="static", use_cuda_graph=False)
    pipeline.load(CPU)
    pipeline.close()
    graphs = DecodeGraphs(pipeline._model, recorder)
    first = graphs.cache_for(4, 100)
    assert graphs.cache_for(4, 256) is first
    assert graphs.cache_for(4, 257) is not first
    for batch in range(5, 5 + decode_graphs.KEPT):
        graphs.cache_for(batch, 1)
    assert graphs.cache_for(4, 100) is not first


def test_graphs_are_for_gpus_and_the_reason_is_effective() -> None:
    pipeline = TransformersLLM(batching="static")
    pipeline.load(CPU)
    pipeline.close()
    assert make_graphs(pipeline._model) == "the device is cpu"
    assert pipeline.effective()["cuda_graphs"] == "none: the device is cpu"
