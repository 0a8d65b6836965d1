"""Llama with 8 billion parameters and random weights: MFU of a prompt, tokens a second and bandwidth use of decoding.

Prompts and decoding run directly on the network that `transformers_llm` loads, so that each phase is measured alone; decoding once with
every kernel launched from Python, and once replayed from a CUDA graph, as `batching: static` does. The engines are another part.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.gpu import mfu
from benchmarks.gpu.denoising import check_device, free
from benchmarks.gpu.part import Job, Keep, not_run

if TYPE_CHECKING:
    import torch

    from pipelines.plan.language import LanguageModel
    from pipelines.transformers.llm import TransformersLLM

ARCHITECTURE = "llama3.1-8b"
SPECIAL_TOKENS = 7  # of pipelines/models/byte_tokenizer.py, with the lowest ids


class Sizes(NamedTuple):
    """prompts: (texts, tokens of each) for prefill. batches: sizes for decoding, after `context` tokens."""

    prompts: tuple[tuple[int, int], ...]
    batches: tuple[int, ...]
    context: int
    steps: int
    answers: tuple[int, int]  # texts and tokens that the engines answer at most
    shrink: dict[str, Any] | None


# A prompt of 2,048 tokens is 30 TFLOP, 0.1 s at 350 TFLOP/s; a step of decoding reads 15 GB at least, 5 ms at 3 TB/s.
FULL = Sizes(((1, 2048), (4, 2048)), (1, 8, 64), 1024, 32, (64, 512), None)
SHRUNK = Sizes(((1, 32), (2, 32)), (1, 4), 16, 6, (4, 6), {"layers": 2, "width": "1/16", "vocabulary": 320})


def measure(job: Job, keep: Keep) -> None:
    import torch

    device, sizes = torch.device(job.device), SHRUNK if job.shrink else FULL
    pipeline = load(device, sizes, batching="static")
    try:
        _phases(pipeline, sizes, job, keep)
    finally:
        pipeline.close()
        del pipeline
        free(device)


def summary(figures: Mapping[str, Any]) -> str:
    texts = [f"prompt {name} MFU {mfu.percent(p['mfu'])}" for name, p in figures.get("prefill", {}).items() if p["ran"]]
    texts += [
        f"{name}{how} {d['tokens_per_s']:.4g} tokens/s, {mfu.percent(d['bandwidth_use'])} of bandwidth"
        for how, key in (("", "decode"), (", graph", "decode_graph"))
        for name, d in figures.get(key, {}).items()
        if d["ran"]
    ]
    return "; ".join(texts)


def load(device: torch.device, sizes: Sizes, **options: Any) -> TransformersLLM:
    from pipelines.transformers.llm import TransformersLLM

    texts, tokens = sizes.answers
    room = max(sizes.context + sizes.steps, *(t for _, t in sizes.prompts)) + tokens
    pipeline = TransformersLLM(
        weights="random",
        architecture=ARCHITECTURE,
        shrink=sizes.shrink,
        chat=False,
        context=room,
        max_new_tokens=tokens,
        batch_size=texts,
        **options,
    )
    pipeline.load(device)
    return pipeline


def build_model(pipeline: TransformersLLM) -> LanguageModel:
    from pipelines.plan.modules import build

    return build(pipeline._model.config, ARCHITECTURE)


def prefill(network: Any, model: LanguageModel, count: int, tokens: int, job: Job, dtype: str) -> dict[str, Any]:
    """Prefill `count` prompts at the same time, up to the first token of each."""
    import torch

    from benchmarks.gpu.timing import seconds_each

    ids_BT = ids_of(network, count, tokens)

    def forward() -> None:
        with torch.inference_mode():
            network(input_ids=ids_BT, use_cache=True, logits_to_keep=1)

    each_s = seconds_each(forward, network.device, 0.0, repeats=3)
    figures = mfu.work(count * model.prefill_flops(tokens), each_s, mfu.product_ceiling(job.ceilings, dtype))
    return {"ran": True, **figures, "tokens_per_s": count * tokens / each_s}


def decode(network: Any, model: LanguageModel, batch: int, sizes: Sizes, job: Job, dtype: str, graphs: Any = None) -> dict[str, Any]:
    """Greedy decoding, one token of each text a step. The first steps are not timed. graphs: a DecodeGraphs to replay the steps from.

    A step must read all weights except the embedding's rows, and the keys and values of every text.
    """
    import torch

    from benchmarks.gpu.timing import synchronise

    warm = max(3, sizes.steps // 8)  # the second is captured
    step = network if graphs is None else graphs.step
    with torch.inference_mode():
        cache = graphs and graphs.cache_for(batch, sizes.context + warm + sizes.steps)
        out = network(input_ids=ids_of(network, batch, sizes.context), past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = out.past_key_values
        for number in range(warm + sizes.steps):
            if number == warm:
                synchronise(network.device)
                start = time.perf_counter()
            out = step(input_ids=out.logits[:, -1:].argmax(-1), past_key_values=cache, use_cache=True)
        synchronise(network.device)
    each_s = (time.perf_counter() - start) / sizes.steps
    precision, context = mfu.DTYPES[dtype], sizes.context + warm + sizes.steps // 2  # the mean over the timed steps
    num_bytes = model.touched_bytes(precision, batch) + batch * model.kv_bytes(context, precision)
    return {
        "ran": True,
        "step_s": each_s,
        "tokens_per_s": batch / each_s,
        "context": context,
        **mfu.traffic(num_bytes, each_s, mfu.bandwidth_ceiling(job.ceilings)),
        "mfu": mfu.work(batch * model.decode_flops(context), each_s, mfu.product_ceiling(job.ceilings, dtype))["mfu"],
    }


def guarded(figures: Callable[..., dict[str, Any]], device: torch.device, *arguments: Any) -> dict[str, Any]:
    """The figures, or why there are none: too little memory for one batch must not prevent the others."""
    import torch

    try:
        return figures(*arguments)
    except torch.OutOfMemoryError:
        return not_run("out of memory")
    except Exception as error:  # a refusal, or whatever a library raises if it lacks a kernel
        check_device(device, error)
        return not_run(f"{type(error).__name__}: {(str(error).splitlines() or ['no message'])[0]}")
    finally:
        free(device)


def _phases(pipeline: TransformersLLM, sizes: Sizes, job: Job, keep: Keep) -> None:
    """Measure prompts, then decoding, at every size."""
    from pipelines.transformers.decode_graphs import DecodeGraphs, make_graphs

    network, model = pipeline._model, build_model(pipeline)
    dtype = str(network.dtype).removeprefix("torch.")
    keep("effective", dict(pipeline.effective()))
    keep("ceilings", {"tflops": mfu.product_ceiling(job.ceilings, dtype), "gb_s": mfu.bandwidth_ceiling(job.ceilings)})
    prompts: dict[str, Any] = {}
    for count, tokens in sizes.prompts:
        prompts[f"{count} x {tokens}"] = guarded(prefill, network.device, network, model, count, tokens, job, dtype)
        keep("prefill", prompts)
    graphs: Any = make_graphs(network)
    if isinstance(graphs, str) and job.shrink:
        graphs = DecodeGraphs(network, run_again)
    for name, by in (("decode_graph", graphs), ("decode", None)):
        rows: dict[str, Any] = {}
        for batch in sizes.batches:
            why = not_run(by) if isinstance(by, str) else None
            rows[f"batch {batch}"] = why or guarded(decode, network.device, network, model, batch, sizes, job, dtype, by)
            keep(name, rows)


def run_again(step: Callable[[], Any], pool: Any) -> tuple[Any, Callable[[], None]]:
    """In the place of a graph's capture, in a rehearsal without a GPU: a replay is the step once more."""
    output = step()

    def replay() -> None:
        for name, value in step().items():  # a ModelOutput has no `update`
            output[name] = value

    return output, replay


def ids_of(network: Any, count: int, tokens: int) -> torch.Tensor:
    """Prompts of random tokens, without special tokens."""
    import torch

    return torch.randint(SPECIAL_TOKENS, network.config.vocab_size, (count, tokens), device=network.device)
