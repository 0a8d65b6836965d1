"""`transformers_llm` answering as a worker uses it, on Llama with 8 billion parameters: both kinds of batching, each option, and vLLM.

64 prompts of 1,024 tokens, with answers of 512 tokens for the defaults and of 64 for the options beside them. Prompts are in the time:
they alone are 1.05 PFLOP.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from benchmarks.gpu.denoising import free
from benchmarks.gpu.part import Job, Keep, not_run
from benchmarks.gpu.parts.llama import ARCHITECTURE, FULL, SHRUNK, Sizes, guarded, load

if TYPE_CHECKING:
    import torch

    from pipelines.base import Pipeline

LEAST_S = 20.0  # that must be left to start another
SHORT = 64  # tokens of an answer, with the options
OPTIONS: dict[str, dict[str, Any]] = {
    "continuous, asynchronous off": {"batching": "continuous", "use_async_batching": False},
    "continuous, no graphs": {"batching": "continuous", "use_cuda_graph": False},
    "continuous, compile level 1": {"batching": "continuous", "default_compile_level": 1},
    "continuous, sdpa": {"batching": "continuous", "attn_implementation": "sdpa"},
    "static, no graphs": {"batching": "static", "use_cuda_graph": False},
}


def measure(job: Job, keep: Keep) -> None:
    import torch

    device, sizes = torch.device(job.device), SHRUNK if job.shrink else FULL
    rows: dict[str, Any] = {}
    for name in ("continuous", "static"):
        rows[name] = row(job, device, sizes, sizes.answers[1], batching=name)
        keep("engines", rows)
    rows["vllm"] = guarded(vllm, device, device, sizes) if importlib.util.find_spec("vllm") else not_run("vllm is not installed")
    keep("engines", rows)
    for name, options in OPTIONS.items():
        rows[name] = row(job, device, sizes, min(SHORT, sizes.answers[1]), **options)
        keep("engines", rows)


def summary(figures: Mapping[str, Any]) -> str:
    rows = figures.get("engines", {}).items()
    return "; ".join(f"{name} {row['tokens_per_s']:.4g} tokens/s" if row["ran"] else f"{name} not run" for name, row in rows)


def row(job: Job, device: torch.device, sizes: Sizes, num_tokens: int, **options: Any) -> dict[str, Any]:
    """The figures with these options, or why there are none."""
    if job.left_s < (0.5 if job.shrink else LEAST_S):
        return not_run("no time was left")
    return guarded(_answer_loaded, device, device, sizes, num_tokens, options)


def answer(pipeline: Pipeline, sizes: Sizes) -> dict[str, Any]:
    """Tokens a second, prompts included. A first batch is not timed: its kernels are chosen, and steps of its shape are captured."""
    from workloads.records import Query, Sample

    texts, _ = sizes.answers
    samples = [Sample(i, f"{i:04d} " + "w" * max(1, sizes.context - 8)) for i in range(texts)]
    queries = [Query(i, i, i) for i in range(texts)]
    pipeline.generate(samples, queries)
    start = time.perf_counter()
    responses = pipeline.generate(samples, queries)
    seconds, failed = time.perf_counter() - start, [r.error for r in responses if r.error]
    if failed:
        return not_run(f"{len(failed)} of {texts} answers failed: {failed[0]}")
    count = sum(r.num_units for r in responses)
    return {
        "ran": True,
        "seconds": seconds,
        "answers": texts,
        "tokens": count,
        "tokens_per_s": count / seconds,
        "prompt_and_answer_tokens_per_s": (count + sum(r.num_input_tokens for r in responses)) / seconds,
        "effective": dict(pipeline.effective()),
    }


def vllm(device: torch.device, sizes: Sizes) -> dict[str, Any]:
    """vLLM on the same network, prompts and lengths."""
    from configs.registry import make

    texts, tokens = sizes.answers
    options = {"weights": "random", "architecture": ARCHITECTURE, "chat": False, "batch_size": texts, "max_new_tokens": tokens}
    pipeline: Pipeline = make("pipelines", "vllm", options | ({"shrink": sizes.shrink} if sizes.shrink else {}))
    pipeline.workload = "llm"
    try:
        pipeline.load(device)
        return answer(pipeline, sizes)
    finally:
        pipeline.close()


def _answer_loaded(device: torch.device, sizes: Sizes, num_tokens: int, options: Mapping[str, Any]) -> dict[str, Any]:
    pipeline = load(device, sizes._replace(answers=(sizes.answers[0], num_tokens)), **options)
    try:
        return answer(pipeline, sizes)
    finally:
        pipeline.close()
        del pipeline
        free(device)
