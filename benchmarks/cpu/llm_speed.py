"""Tokens a second of `transformers_llm` against `generate` and transformers' own continuous batching by hand, and against vLLM.

python benchmarks/cpu/llm_speed.py [--short] [--prompts 264] [--rounds 3] [--vllm .venv-vllm/bin/python]

The embedded model, the same prompts, greedy, one thread; each way once a round, in turn. vLLM is in an environment of its own (its CPU
build: make test-vllm) and is left out where that is not there. --short: 4 prompts, once, against `generate` alone: continuous batching by
hand has a cache for 64 requests of 512 tokens, which its attention on a CPU reads whole at every step.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from benchmarks.harness.side_by_side import Way, compare, length
from benchmarks.outcome import arguments
from pipelines.transformers.llm import TransformersLLM
from workloads.llm import Language
from workloads.records import Query, query_seed

ROOT = Path(__file__).resolve().parents[2]
GOAL = 0.95  # first, or within 5 % of the fastest
OURS, BATCH, MOST_TOKENS = "transformers_llm", 64, 256  # as the preset llm/embedded offline


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--prompts", type=int, default=264)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--vllm", type=Path, default=ROOT / ".venv-vllm/bin/python", help="the Python that has vLLM")
    given = parser.parse_args(argv)
    if given.short:
        given.prompts, given.rounds = 4, 1
    torch.set_num_threads(1)
    samples = list(Language(num_prompts=given.prompts).samples())
    queries = [Query(i, i, query_seed(42, i)) for i in range(len(samples))]
    pipeline = TransformersLLM(model="embedded", batching="continuous", batch_size=BATCH, max_new_tokens=MOST_TOKENS)
    pipeline.load(torch.device("cpu"))
    prompts = [pipeline._encode(sample.prompt) for sample in samples]

    def ours() -> int:
        return sum(r.num_units for r in pipeline.generate(samples, queries))

    ways: dict[str, Way] = {OURS: ours} | by_hand(prompts, given.short)
    server = None
    if not given.short and given.vllm.exists():
        server = VLLM(given.vllm, prompts)
        ways["vllm"] = server.answer
    compare("llm_speed", ways, OURS, GOAL, "tokens/s", given)
    pipeline.close()
    if server:
        server.close()


def by_hand(prompts: Sequence[Sequence[int]], short: bool) -> dict[str, Way]:
    """What a program of transformers alone would do: padded batches, and its continuous batching."""
    reference = TransformersLLM(model="embedded", batching="static", batch_size=BATCH, max_new_tokens=MOST_TOKENS)
    reference.load(torch.device("cpu"))
    network, settings = reference._model, reference._model.generation_config
    end, pad = settings.eos_token_id, settings.pad_token_id or 0
    ends = set(end if isinstance(end, list) else [end])

    def generate() -> int:
        num_tokens = 0
        for at in range(0, len(prompts), BATCH):
            batch = prompts[at : at + BATCH]
            longest = max(map(len, batch))
            ids = torch.tensor([[pad] * (longest - len(p)) + list(p) for p in batch])
            mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in batch])
            with torch.inference_mode():
                out = network.generate(input_ids=ids, attention_mask=mask, max_new_tokens=MOST_TOKENS, do_sample=False)
            num_tokens += sum(length(row, ends) for row in out[:, longest:].tolist())
        return num_tokens

    def continuous() -> int:
        from transformers import GenerationConfig
        from transformers.generation.configuration_utils import ContinuousBatchingConfig

        wanted = GenerationConfig(max_new_tokens=MOST_TOKENS, do_sample=False, eos_token_id=end, pad_token_id=pad)
        cache = ContinuousBatchingConfig(num_blocks=2 * BATCH, max_batch_tokens=1024, max_requests_per_batch=BATCH)
        out = network.generate_batch([list(p) for p in prompts], wanted, continuous_batching_config=cache, progress_bar=False)
        return sum(length(result.generated_tokens, ends) for result in out.values())

    ways: dict[str, Way] = {f"generate, batches of {BATCH}": generate}
    return ways if short else ways | {"transformers' continuous batching": continuous}


class VLLM:
    """vLLM's own `LLM.generate` in its environment: a process that answers all prompts at each line that it gets."""

    def __init__(self, python: Path, prompts: Sequence[Sequence[int]]) -> None:
        script = ROOT / "benchmarks/harness/vllm_answers.py"
        self._process = subprocess.Popen([str(python), str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        self._ask({"prompts": [list(p) for p in prompts], "max_tokens": MOST_TOKENS, "batch": BATCH})

    def answer(self) -> int:
        return int(self._ask({})["tokens"])

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def _ask(self, line: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(line) + "\n")
        self._process.stdin.flush()
        for text in self._process.stdout:
            if text.startswith("{"):
                found: dict[str, Any] = json.loads(text)
                return found
        raise RuntimeError("vLLM's process ended without an answer; its own message is above")


if __name__ == "__main__":
    main()
