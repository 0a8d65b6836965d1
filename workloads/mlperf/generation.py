"""How the answers of each benchmark must be generated."""

from __future__ import annotations

from workloads.mlperf.vbench_prompts import NEGATIVE_PROMPT

Setting = float | bool | str | None

# By benchmark: required options of the pipeline, by the names that the suite's own engines use. Sources: mlcommons/inference,
# text_to_video/wan-2.2-t2v-a14b/inference_config.yaml, language/gpt-oss-120b, multimodal/qwen3-vl; language/llama2-70b, deepseek-r1 and
# llama3.1-8b decode greedily, to these lengths. The maximum length of Qwen3-VL's answers is not known, so it is not checked.
GENERATION: dict[str, dict[str, Setting]] = {
    "wan-2.2-t2v-a14b": {
        "num_inference_steps": 20,
        "num_frames": 81,
        "height": 720,
        "width": 1280,
        "fps": 16.0,
        "guidance_scale": 4.0,
        "guidance_scale_2": 3.0,
        "negative_prompt": NEGATIVE_PROMPT,
    },
    "gpt-oss-120b": {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": None, "max_new_tokens": 10240},
    "qwen3-vl-235b-a22b": {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20},
    "llama2-70b-99": {"do_sample": False, "max_new_tokens": 1024},
    "llama2-70b-99.9": {"do_sample": False, "max_new_tokens": 1024},
    "deepseek-r1": {"do_sample": False, "max_new_tokens": 20000},
    "llama3.1-8b": {"do_sample": False, "max_new_tokens": 128},
}
# What differs in the accuracy test.
GENERATION_FOR_ACCURACY: dict[str, dict[str, Setting]] = {"gpt-oss-120b": {"max_new_tokens": 32768}}
# What no engine of the suite does in the way of the reference. Reports name it, and the closed division refuses it.
NOT_AS_REFERENCE: dict[str, str] = {
    "wan-2.2-t2v-a14b": "a clip starts from noise of its own seed; the reference starts all from one latent, fixed_latent.pt, and seed 42"
}
