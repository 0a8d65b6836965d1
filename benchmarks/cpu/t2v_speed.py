"""Videos a second of `diffusers_t2v` against diffusers' pipeline by hand: the embedded model, the same captions, seeds and batches.

python benchmarks/cpu/t2v_speed.py [--short] [--captions 16] [--rounds 3]

One thread; each way once a round, in turn. --short: one clip of two steps, once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from benchmarks.harness.side_by_side import Way, compare
from benchmarks.outcome import arguments
from pipelines.diffusers.t2v import DiffusersT2V
from pipelines.models.embedded import VIDEO
from workloads.records import Query, Sample, query_seed
from workloads.t2v import TextToVideo

GOAL = 0.95  # first, or within 5 %
OURS, BATCH = "diffusers_t2v", 4
FORM = {"num_frames": 9, "height": 48, "width": 48, "guidance_scale": 2.0, "max_sequence_length": 64}  # as the preset t2v/embedded


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--captions", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args(argv)
    steps = 8
    if given.short:
        given.captions, given.rounds, steps = 1, 1, 2
    torch.set_num_threads(1)
    samples = list(TextToVideo(num_prompts=given.captions).samples())
    pipeline = DiffusersT2V(model="embedded", batch_size=BATCH, num_inference_steps=steps, fps=8, **FORM)  # type: ignore[arg-type]
    pipeline.load(torch.device("cpu"))
    batches = [samples[at : at + BATCH] for at in range(0, len(samples), BATCH)]

    def ours() -> int:
        return sum(len(pipeline.generate(batch, [Query(s.index, s.index, query_seed(42, s.index)) for s in batch])) for batch in batches)

    ways: dict[str, Way] = {OURS: ours, "diffusers by hand": by_hand(batches, steps)}
    compare("t2v_speed", ways, OURS, GOAL, "videos/s", given)
    pipeline.close()


def by_hand(batches: Sequence[Sequence[Sample]], steps: int) -> Way:
    """What a program of diffusers alone would do."""
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(VIDEO)
    pipe.set_progress_bar_config(disable=True)

    def answer() -> int:
        count = 0
        for batch in batches:
            generators = [torch.Generator("cpu").manual_seed(query_seed(42, s.index)) for s in batch]
            prompts = [s.prompt for s in batch]
            count += len(pipe(prompt=prompts, generator=generators, num_inference_steps=steps, output_type="np", **FORM).frames)
        return count

    return answer


if __name__ == "__main__":
    main()
