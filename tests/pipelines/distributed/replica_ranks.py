"""What each rank runs in test_replica.py: cases on models with random weights; the first rank of a replica writes the answers.

replica_ranks.py WAN LLAMA OUTPUT CASE..      CASE: see CASES
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from configs.settings import ParallelSettings
from pipelines.diffusers.speedups import parallel as parallel_denoise
from pipelines.diffusers.t2v import DiffusersT2V
from pipelines.distributed.replica import Replica, join_replica
from pipelines.transformers.llm import TransformersLLM
from workloads.records import Query, Sample

CLIP: dict[str, Any] = {
    "num_frames": 5,
    "height": 32,
    "width": 64,
    "num_inference_steps": 4,
    "guidance_scale": 3.0,
    "guidance_scale_2": 2.0,
    "max_sequence_length": 16,
}
WORDS: dict[str, Any] = {"max_new_tokens": 12, "batch_size": 4, "page_size": 16}
DRAWN: dict[str, Any] = {"do_sample": True, "temperature": 0.8, "top_k": 50}
PROMPTS = ["count from 1 to 3.", "what colour is the disc?", "a red disc moves to the left", "name a shape", "count from 2 to 9."]

CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "ulysses": ("wan", {"context": 2}, CLIP),
    "ring": ("wan", {"context": 2, "context_kind": "ring"}, CLIP),
    "cfg": ("wan", {"cfg": 2}, CLIP),
    "cfg-bfloat16": ("wan", {"cfg": 2}, CLIP | {"dtype": "bfloat16"}),
    "cfg-vae": ("wan", {"cfg": 2}, CLIP | {"vae_split": True, "vae_overlap": 1}),
    "cfg-vae-whole": ("wan", {"cfg": 2}, CLIP | {"vae_split": True, "vae_overlap": 8}),
    "context-cfg": ("wan", {"context": 2, "cfg": 2}, CLIP),
    "static": ("llama", {"tensor": 2}, WORDS | {"batching": "static"}),
    "static-drawn": ("llama", {"tensor": 2}, WORDS | DRAWN | {"batching": "static"}),
    "continuous": ("llama", {"tensor": 2}, WORDS | {"batching": "continuous"}),
}


def answer(case: str, folder: str, replica: Replica) -> dict[str, Any]:
    """The case's clips or texts by name, with effective settings; nothing from a follower."""
    kind, _, options = CASES[case]
    pipeline: Any = (DiffusersT2V if kind == "wan" else TransformersLLM)(model=folder, **options)
    pipeline.replica = replica
    pipeline.load(torch.device("cpu"))
    samples = [Sample(i, text) for i, text in enumerate(PROMPTS[: 2 if kind == "wan" else None])]
    queries = [Query(i, i, 100 + i) for i in range(len(samples))]
    try:
        responses = [] if kind == "llama" and not replica.leads else pipeline.generate(samples, queries)
        if replica.size > 1:
            # A language model's followers get their work from its engine, which computes in the world's own group.
            torch.distributed.barrier(group=torch.distributed.new_group(backend="gloo"))
    finally:
        pipeline.close()
    if kind == "wan":
        return {"clips": np.array([r.video_THWC for r in responses]), "effective": dict(pipeline.effective())}
    texts = [[r.text, r.num_units, r.first_token_id, r.finish_reason] for r in responses]
    return {"texts": texts, "effective": dict(pipeline.effective())}


def ring_on_a_cpu() -> Any:
    """torch's flash attention for CPUs in the place of that for accelerators, which is the one diffusers' ring can use."""

    def flash(query: Any, key: Any, value: Any, dropout_p: float, is_causal: bool, return_debug_mask: bool, scale: Any) -> Any:
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, dropout_p, is_causal, scale=scale)
        return out, lse, None, None, 0, 0, None, None, None

    setattr(torch.ops.aten, "_scaled_dot_product_flash_attention", flash)  # noqa: B010  (its stub knows no operators)
    return mock.patch.object(parallel_denoise, "_ring_backend", return_value="_native_flash")


def main() -> None:
    from accelerate import PartialState

    wan, llama, output, *cases = sys.argv[1:]
    torch.set_num_threads(1)
    state = PartialState(cpu=True)
    for case in cases:
        kind, settings, _ = CASES[case]
        parallel = ParallelSettings.model_validate(settings)
        replica = join_replica(parallel, state.process_index, state.num_processes, state.device)
        with ring_on_a_cpu() if case == "ring" else mock.MagicMock():
            found = answer(case, wan if kind == "wan" else llama, replica)
        if replica.leads:
            file = Path(output) / f"{case}-{replica.ranks[0]}"
            if kind == "wan":
                np.save(file.with_suffix(".npy"), found.pop("clips"))
            file.with_suffix(".json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
