"""The options of pipeline `vllm`, with the checks that need no model and no device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from configs.errors import ConfigError
from pipelines.base import StreamingPipeline
from pipelines.models.option_checks import check_fraction, check_positive, check_sampling
from pipelines.vllm.rocm import RocmOptions

POSITIVE = (
    *("batch_size", "max_model_len", "max_num_batched_tokens", "kv_cache_memory_bytes", "block_size"),
    *("max_new_tokens", "temperature", "top_k"),
)


@dataclass
class VllmOptions(StreamingPipeline):
    """Options have vLLM's names where only vLLM has them, else those of transformers_llm; None keeps vLLM's default.

    model: `embedded` or, for workload llm, `embedded-moe`: the models that come with the suite; a folder, or a hub name.
    batch_size: queries in the engine at the same time, vLLM's max_num_seqs. max_model_len: largest number of tokens of prompt and answer
    together. enforce_eager: neither compile nor record graphs; None means true on a CPU, where compiling takes a minute.
    enable_prefix_caching, mm_processor_cache_gb: off, as MLPerf demands. The requested and the effective settings are compared, and the
    engine's count of cached tokens is shown. kv_cache_memory_bytes: 1 GiB on a CPU where neither it nor gpu_memory_utilization is
    given. kv_cache_dtype: fp8 and others. quantization: of a checkpoint that does not declare it, such as quark or mxfp4, or while
    loading, such as fp8. stop: texts of further tokens that end an answer, each one token. chat_template: a Jinja file, for a checkpoint
    that has none. weights, architecture, shrink: as in transformers_llm, but drawn by vLLM (load_format dummy). engine_args: further
    arguments of vLLM's EngineArgs by name.
    On ROCm: aiter: true, false, or parts by name (rocm.py), such as {mha: false}. quick_reduce: the format in which sums over the ranks
    of a replica are sent. quick_reduce_cast: bfloat16 as float16 there.
    repeats: `never` where answers may depend on the rest of the batch, as sums in 16 bits do on most devices.
    revision: of the model on the hub. dtype: of weights and activations; `auto` is float32 on a CPU. max_num_batched_tokens: tokens of
    one step of the engine. gpu_memory_utilization: share of the device's memory that the engine takes. block_size: tokens of a block of
    the cache. attention_backend: one of vLLM's. async_scheduling: schedule the next step while one runs. enable_expert_parallel: experts
    are distributed over the ranks instead of split. do_sample: sample tokens instead of taking the likeliest; every query has its own
    seed. chat: put the prompt through the chat template, after system_prompt. system_prompt: placed before every prompt. max_new_tokens:
    the longest answer, in tokens. temperature: divides the logits before sampling. top_k: sample among this many of the likeliest tokens.
    top_p: sample among the likeliest tokens that reach this share together.
    """

    model: str = "embedded"
    revision: str | None = None
    weights: Literal["pretrained", "random"] = "pretrained"
    architecture: str | None = None
    shrink: dict[str, Any] | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    quantization: str | None = None
    kv_cache_dtype: str = "auto"
    batch_size: int = 64
    max_model_len: int | None = None
    max_num_batched_tokens: int | None = None
    gpu_memory_utilization: float | None = None
    kv_cache_memory_bytes: int | None = None
    block_size: int | None = None
    enable_prefix_caching: bool = False
    mm_processor_cache_gb: float = 0.0
    enforce_eager: bool | None = None
    attention_backend: str | None = None
    async_scheduling: bool | None = None
    enable_expert_parallel: bool = False
    engine_args: dict[str, Any] = field(default_factory=dict)
    aiter: bool | dict[str, bool] | None = None
    quick_reduce: Literal["NONE", "FP", "INT8", "INT6", "INT4", "INT3"] | None = None
    quick_reduce_cast: bool | None = None
    max_new_tokens: int = 256
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    stop: Sequence[str] = ()
    chat: bool = True
    chat_template: str | None = None
    system_prompt: str | None = None
    repeats: Literal["alone", "never"] = "alone"

    workloads: ClassVar[tuple[str, ...]] = ("llm", "vlm")
    parallelism: ClassVar[tuple[str, ...]] = ("tensor",)

    def __post_init__(self) -> None:
        if self.architecture or self.shrink or self.weights == "random":
            from pipelines.models.random_weights import check_options

            check_options("vllm", self.weights, self.architecture, self.shrink)
        check_positive("vllm", self, POSITIVE)
        if self.mm_processor_cache_gb < 0:
            raise ConfigError(f"pipeline 'vllm': mm_processor_cache_gb must be at least 0, got {self.mm_processor_cache_gb}")
        check_fraction("vllm", self, ("top_p", "gpu_memory_utilization"))
        check_sampling("vllm", self)
        if not self.chat and (self.system_prompt or self.chat_template):
            raise ConfigError("pipeline 'vllm': system_prompt and chat_template need chat: true")
        self._rocm = RocmOptions(self.aiter, self.quick_reduce, self.quick_reduce_cast)
