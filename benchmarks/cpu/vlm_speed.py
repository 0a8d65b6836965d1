"""Tokens a second of `transformers_vlm` against `generate` by hand: the embedded model, the same questions about pictures, and batches.

python benchmarks/cpu/vlm_speed.py [--short] [--questions 64] [--rounds 3]

One thread; each way once a round, in turn. By hand, prompts and pictures are prepared before the clock starts; ours prepares them while it
runs. --short: 2 questions, once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from benchmarks.harness.side_by_side import Way, compare, length
from benchmarks.outcome import arguments
from pipelines.transformers.vlm import TransformersVLM
from workloads.records import Query, query_seed
from workloads.vlm import VisionLanguage

GOAL = 0.95  # first, or within 5 %
OURS, BATCH, MOST_TOKENS = "transformers_vlm", 16, 48  # as the preset vlm/embedded


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args(argv)
    if given.short:
        given.questions, given.rounds = 2, 1
    torch.set_num_threads(1)
    samples = list(VisionLanguage(num_prompts=given.questions).samples())
    queries = [Query(s.index, s.index, query_seed(42, s.index)) for s in samples]
    pipeline = TransformersVLM(model="embedded", batch_size=BATCH, max_new_tokens=MOST_TOKENS)
    pipeline.load(torch.device("cpu"))
    places = [slice(at, at + BATCH) for at in range(0, len(samples), BATCH)]
    prepared = [pipeline._encode(samples[place], {})[1] for place in places]
    end = pipeline._generation.eos_token_id
    ends = set(end if isinstance(end, list) else [end])

    def ours() -> int:
        return sum(r.num_units for place in places for r in pipeline.generate(samples[place], queries[place]))

    def by_hand() -> int:
        num_tokens = 0
        for inputs in prepared:
            with torch.inference_mode():
                out = pipeline._model.generate(**inputs, max_new_tokens=MOST_TOKENS, do_sample=False)
            rows = out[:, inputs["input_ids"].shape[1] :].tolist()
            num_tokens += sum(length(row, ends) for row in rows)
        return num_tokens

    ways: dict[str, Way] = {OURS: ours, "generate by hand": by_hand}
    compare("vlm_speed", ways, OURS, GOAL, "tokens/s", given)
    pipeline.close()


if __name__ == "__main__":
    main()
