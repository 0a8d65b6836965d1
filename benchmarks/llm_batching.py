"""Tokens a second of `transformers_llm` under each kind of batching, compared with `generate` for one prompt at a time.

python benchmarks/llm_batching.py [--short] [--model embedded] [--prompts 528]

Every round runs each way once, in turn; the best round of each counts, because other work on the machine only slows it down.
Prints tables; the last line is JSON. --short: 4 prompts, one round, one way.

Under transformers' own `sdpa` path continuous batching attends over all requests' keys at once, with work that grows with the square of
the batch; on a CPU the pipeline attends request by request instead (pipelines/transformers/paged_attention.py).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.outcome import Figure, arguments, conclude
from pipelines.transformers.llm import TransformersLLM
from workloads.llm import Language
from workloads.records import Query, Sample, query_seed

WAYS: dict[str, dict[str, Any]] = {
    "static, 32": {"batching": "static", "batch_size": 32},
    "continuous, sdpa, 32": {"batching": "continuous", "batch_size": 32, "attn_implementation": "sdpa"},
    "continuous, 32": {"batching": "continuous", "batch_size": 32},
    "continuous, 64": {"batching": "continuous", "batch_size": 64},
    "continuous, 128": {"batching": "continuous", "batch_size": 128},
}
GOAL = 5.0  # times one prompt at a time, for the way of the embedded Offline preset
PRESET = "continuous, 64"
ALONE = "generate, one at a time"


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--model", default="embedded", help="as the pipeline's option of that name")
    parser.add_argument("--prompts", type=int, default=528)
    parser.add_argument("--alone", type=int, default=33, help="the number of them that are answered one at a time")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(argv)
    if given.short:
        given.prompts, given.alone, given.rounds = 4, 1, 1
    ways = {PRESET: WAYS[PRESET]} if given.short else WAYS
    torch.set_num_threads(given.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    samples = list(Language(num_prompts=given.prompts).samples())
    queries = [Query(i, i, query_seed(42, i)) for i in range(len(samples))]
    rates: dict[str, list[float]] = {}
    answers: dict[str, list[str | None]] = {}
    for _ in range(given.rounds):
        rates.setdefault(ALONE, []).append(alone(given.model, samples[: given.alone], device))
        for name, options in ways.items():
            pipeline = TransformersLLM(model=given.model, **options)
            pipeline.load(device)
            pipeline.generate(samples[:4], queries[:4])
            started = time.perf_counter()
            responses = pipeline.generate(samples, queries)
            rates.setdefault(name, []).append(sum(r.num_units for r in responses) / (time.perf_counter() - started))
            answers[name] = [r.text for r in responses]
            pipeline.close()
    best = {name: max(values) for name, values in rates.items()}
    rows = [{"way": name, "tokens/s": round(rate), "times one at a time": rate / best[ALONE]} for name, rate in best.items()]
    repeats = [of / alone for of, alone in zip(rates[PRESET], rates[ALONE], strict=True)]
    figures = {PRESET: Figure(best[PRESET] / best[ALONE], "times one at a time", goal=GOAL, repeats=repeats)}
    same = len({tuple(texts) for texts in answers.values()}) == 1
    conclude("llm_batching", figures, given, rows, {"every way gives the same answers": same}, device=str(device))


def alone(model: str, samples: list[Sample], device: torch.device) -> float:
    """Tokens a second of plain `generate`, prompt by prompt."""
    pipeline = TransformersLLM(model=model, batching="static", batch_size=1)
    pipeline.load(device)
    network, num_tokens = pipeline._model, 0
    prompts = [torch.tensor([pipeline._encode(s.prompt)], device=device) for s in samples]
    started = time.perf_counter()
    with torch.inference_mode():
        for ids in prompts:
            out = network.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=network.generation_config)
            num_tokens += out.shape[1] - ids.shape[1]
    seconds = time.perf_counter() - started
    pipeline.close()
    return num_tokens / seconds


if __name__ == "__main__":
    main()
