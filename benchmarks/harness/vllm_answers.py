"""vLLM's side of benchmarks/cpu/llm_speed.py, for the environment that has it: reads prompts, then answers all of them for each line."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from vllm import LLM, SamplingParams

    asked = json.loads(sys.stdin.readline())
    model = LLM(model=str(ROOT / "pipelines/embedded/llm_dense"), dtype="float32", max_model_len=512, max_num_seqs=asked["batch"])
    how = SamplingParams(temperature=0.0, max_tokens=asked["max_tokens"])
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        answers = model.generate([{"prompt_token_ids": ids} for ids in asked["prompts"]], how, use_tqdm=False)
        print(json.dumps({"tokens": sum(len(answer.outputs[0].token_ids) for answer in answers)}), flush=True)


if __name__ == "__main__":
    main()
