"""Compiled decoding by transformers: `generate` with a static cache, which transformers compiles on a GPU."""

from __future__ import annotations

import copy
import time
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.gpu import mfu
from benchmarks.gpu.denoising import free
from benchmarks.gpu.part import Job
from benchmarks.gpu.parts.llama import FULL, SHRUNK, Sizes, build_model, guarded, ids_of, load

if TYPE_CHECKING:
    from pipelines.transformers.llm import TransformersLLM


class TokenClock:
    """A stopping criterion that never stops; it records the time of each token."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        input_ids[:, -1].tolist()  # waits for the device
        self.times.append(time.perf_counter())
        return input_ids.new_zeros(len(input_ids), dtype=torch.bool)


def measure(job: Job) -> dict[str, Any]:
    """Figures of decoding one text."""
    device, sizes = torch.device(job.device), SHRUNK if job.shrink else FULL
    pipeline = load(device, sizes, batching="static")
    try:
        return guarded(_generate, device, pipeline, sizes, job)
    finally:
        pipeline.close()
        del pipeline
        free(device)


def _generate(pipeline: TransformersLLM, sizes: Sizes, job: Job) -> dict[str, Any]:
    from transformers import StoppingCriteriaList

    network, model = pipeline._model, build_model(pipeline)
    count, config = 2 * sizes.steps, copy.copy(network.generation_config)
    config.update(cache_implementation="static", max_new_tokens=count, min_new_tokens=count)
    ids = ids_of(network, 1, sizes.context)
    for _ in range(2):  # of the same length: another length would be compiled again
        clock = TokenClock()
        with torch.inference_mode():
            network.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                generation_config=config,
                stopping_criteria=StoppingCriteriaList([clock]),
            )
    gaps = [after - before for before, after in zip(clock.times, clock.times[1:], strict=False)]
    each_s = median(gaps[len(gaps) // 2 :])
    precision = mfu.DTYPES[str(network.dtype).removeprefix("torch.")]
    num_bytes = model.touched_bytes(precision, 1) + model.kv_bytes(sizes.context + 3 * count // 4, precision)
    used = mfu.traffic(num_bytes, each_s, mfu.bandwidth_ceiling(job.ceilings))
    return {"ran": True, "step_s": each_s, "tokens_per_s": 1 / each_s, **used}
