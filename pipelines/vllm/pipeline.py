"""vLLM's engine in this process, for language and vision-language models: one engine a rank, or one over the ranks of a replica."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from configs.errors import ConfigError, first_line
from configs.registry import register
from pipelines.base import Event, StreamingPipeline
from pipelines.models.chat_prompts import image_messages, prompt_ids
from pipelines.models.checkpoint import check_transformers_folder
from pipelines.models.embedded import models_of
from pipelines.models.option_checks import check_fraction, check_positive, check_sampling
from pipelines.models.token_events import TokenEvents
from pipelines.vllm.rocm import RocmOptions
from workloads.records import Query, Sample

if TYPE_CHECKING:
    import torch

POSITIVE = (
    *("batch_size", "max_model_len", "max_num_batched_tokens", "kv_cache_memory_bytes", "block_size"),
    *("max_new_tokens", "temperature", "top_k"),
)


@register("vllm")
@dataclass
class Vllm(StreamingPipeline):
    """Options carry vLLM's own names where they are vLLM's alone, else transformers_llm's; None leaves what vLLM does on its own.

    model: `embedded` or, of llm, `embedded-moe`: those that come with the suite; a folder, or a hub name. batch_size: queries in the
    engine at the same time, vLLM's max_num_seqs. max_model_len: tokens of prompt and answer together at most. enforce_eager: neither
    compile nor record graphs; None is true on a processor, where compiling takes a minute. enable_prefix_caching, mm_processor_cache_gb:
    off, as MLPerf demands; what was asked for and what is in force are compared, and the engine's count of cached tokens is shown.
    kv_cache_memory_bytes: 1 GiB on a processor where neither it nor gpu_memory_utilization is given. kv_cache_dtype: fp8 and others.
    quantization: of a checkpoint that does not say it itself, such as quark or mxfp4, or while loading, such as fp8. stop: texts of
    further tokens that end an answer. chat_template: a Jinja file, for a checkpoint that has none. weights, architecture, shrink: as in
    transformers_llm, but drawn by vLLM (load_format dummy). engine_args: further arguments of vLLM's EngineArgs by name.
    On ROCm: aiter: true, false, or parts by name (pipelines/vllm/rocm.py), such as {mha: false}; quick_reduce: how sums over the ranks of
    a replica are sent; quick_reduce_cast: bfloat16 as float16 there.
    repeats: `never` where answers may depend on what else is in the batch, which sums in 16 bits do on most devices.
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

    _model: Any = field(default=None, init=False, repr=False)  # for pipelines/launcher/worker/inspection.py, which looks for modules
    _tokenizer: Any = field(default=None, init=False, repr=False)
    _engine: Any = field(default=None, init=False, repr=False)
    _events: Any = field(default=None, init=False, repr=False)
    _facts: dict[str, str] = field(default_factory=dict, init=False, repr=False)
    _made: str | None = field(default=None, init=False, repr=False)  # a folder for this run alone
    _joined: bool = field(default=False, init=False, repr=False)  # torch.distributed is vLLM's own

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

    def load(self, device: torch.device) -> None:
        from pipelines.vllm.engine_args import check_formats, engine_arguments, import_vllm, reason

        if self.workload == "vlm" and not self.chat:
            raise ConfigError("pipeline 'vllm': chat: false is of workload llm; a chat template says where images stand")
        self._rocm.check(device, self.replica.size, self.dtype)
        where = self._source()
        check_formats(self, where, device)
        import_vllm(device, self.workload, self._rocm.variables())
        import torch
        from vllm.engine.arg_utils import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        from pipelines.vllm.engine import Engine, undisturbed

        self._joined = not torch.distributed.is_initialized()
        self._load_tokenizer(where)
        try:
            with undisturbed():
                llm = LLMEngine.from_engine_args(EngineArgs(**engine_arguments(self, where, device)))
        except Exception as error:  # vLLM, transformers, safetensors and the hub raise many kinds
            self._leave_groups()
            raise ConfigError(f"vLLM cannot run model {self._name!r}: {reason(error)}") from error
        self._model = llm.model_executor.driver_worker.worker.model_runner.get_model()
        ends = self._ends(llm.model_config)
        self._events = TokenEvents(self._tokenizer, ends, self.speaks)
        self._engine = Engine(llm, self._sampling(ends), self.replica, self.speaks)
        self._check_model(llm.model_config)

    def submit(self, samples: Sequence[Sample], queries: Sequence[Query]) -> None:
        from pipelines.vllm.engine import Request

        requests = []
        for sample, query in zip(samples, queries, strict=True):
            try:
                ids = self._encode(sample)
            except Exception as error:  # a chat template can raise anything
                self._events.refuse(query.id, first_line(error))
                continue
            room = self.context_length - len(ids)
            if room < 1 or not ids:
                why = f"prompt has {len(ids)} tokens, and the context {self.context_length}" if ids else "prompt has no tokens"
                self._events.refuse(query.id, why, len(ids))
                continue
            self._events.expect(query.id, len(ids))
            seed = query.seed if self.do_sample else None
            requests.append(Request(query.id, ids, list(sample.images), min(room, self.max_new_tokens), seed))
        self._engine.add(requests)

    def step(self, timeout_s: float) -> Sequence[Event]:
        refused: list[Event] = self._events.refused()
        return refused or [event for update in self._engine.updates(timeout_s) for event in self._events.of(update)]

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = self._model = None
            self._leave_groups()
        if self._made is not None:
            shutil.rmtree(self._made, ignore_errors=True)

    def effective(self) -> Mapping[str, str]:
        from pipelines.vllm.effective import facts

        sampling = f"temperature {self.temperature}, top_k {self.top_k}, top_p {self.top_p}, seeded" if self.do_sample else "greedy"
        return {**facts(self._engine, self._model, self.replica), "sampling": sampling, **self._facts}

    def fallbacks(self) -> Sequence[str]:
        from pipelines.vllm.effective import differences, facts
        from pipelines.vllm.rocm import not_in_force

        found = facts(self._engine, self._model, self.replica)
        return [*differences(self, self._engine.llm), *not_in_force(self._rocm, found, found["attention"].split(", "))]

    @property
    def context_length(self) -> int:
        """Tokens of prompt and answer together."""
        return int(self._engine.llm.model_config.max_model_len)

    def _leave_groups(self) -> None:
        """So that another engine can be made in this process; the world's own group stays where it is the launcher's."""
        from vllm.distributed.parallel_state import destroy_distributed_environment, destroy_model_parallel

        destroy_model_parallel()
        if self._joined:
            destroy_distributed_environment()

    @property
    def _name(self) -> str:
        return self.architecture if self.weights == "random" and self.architecture else self.model

    def _source(self) -> str:
        """Folder or hub name; of random weights a folder that describes them, with a tokenizer."""
        if self.weights == "random":
            from pipelines.vllm.checkpoint import write_description

            self._made, self._facts = write_description(self)
            return self._made
        embedded = models_of("vlm" if self.workload == "vlm" else "llm")
        path = embedded.get(self.model, Path(self.model))
        if path.exists() or self.model in embedded or self.model.startswith((".", "/", "~")):
            from pipelines.vllm.checkpoint import told_for_vllm

            check_transformers_folder(path)
            self._made = told_for_vllm(path)
            return self._made or str(path)
        return self.model

    def _load_tokenizer(self, where: str) -> None:
        from transformers import AutoTokenizer

        from pipelines.vllm.engine_args import reason

        try:
            self._tokenizer = AutoTokenizer.from_pretrained(where, revision=self.revision)
        except Exception as error:  # transformers and the hub raise many kinds
            raise ConfigError(f"vLLM cannot run model {self._name!r}: {reason(error)}") from error
        if self.chat_template is not None:
            try:
                self._tokenizer.chat_template = Path(self.chat_template).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"pipeline 'vllm': chat_template {self.chat_template!r} cannot be read: {first_line(error)}") from None
        if self.chat and not self._tokenizer.chat_template:
            fix = "name one: chat_template: FILE" + (", or ask it bare prompts: chat: false" if self.workload != "vlm" else "")
            raise ConfigError(f"model {self._name!r} has no chat template; {fix}")
        for text in self.stop:
            if len(self._tokenizer.encode(text, add_special_tokens=False)) != 1:
                raise ConfigError(f"pipeline 'vllm': stop {text!r} is not one token of {self._name!r}; give texts that are")

    def _check_model(self, config: Any) -> None:
        """What was loaded against what is asked of it; config: vLLM's ModelConfig. Raises ConfigError."""
        if self.architecture and self.weights == "pretrained":
            from pipelines.models.architectures import check_match

            check_match(config.hf_config, self.architecture, self.model)
        if self.workload == "vlm" and not config.is_multimodal_model:
            raise ConfigError(f"model {self._name!r} is a {config.hf_config.model_type!r}, which does not answer about images")
        if (largest := max(self._tokenizer.get_vocab().values(), default=0)) >= (rows := config.get_vocab_size()):
            raise ConfigError(
                f"model {self._name!r}: its tokenizer has token {largest}, its network only {rows} tokens; they belong to different models"
            )

    def _ends(self, config: Any) -> set[int]:
        """Tokens that end an answer, by transformers' rule, and the texts of `stop`."""
        own = config.try_get_generation_config().get("eos_token_id", getattr(config.hf_text_config, "eos_token_id", None))
        own = self._tokenizer.eos_token_id if own is None else own
        ends = set() if own is None else {own} if isinstance(own, int) else set(own)
        return ends | {self._tokenizer.encode(text, add_special_tokens=False)[0] for text in self.stop}

    def _sampling(self, ends: set[int]) -> dict[str, Any]:
        """What vLLM's SamplingParams take; the end tokens are ours alone, so that both sides mean the same ones."""
        drawn = {"temperature": self.temperature, "top_k": self.top_k or 0, "top_p": self.top_p or 1.0}
        return {"stop_token_ids": sorted(ends), "ignore_eos": True, **(drawn if self.do_sample else {"temperature": 0.0})}

    def _encode(self, sample: Sample) -> list[int]:
        if self.workload != "vlm":
            return prompt_ids(self._tokenizer, sample.prompt, self.chat, self.system_prompt)
        messages = image_messages(sample.prompt, len(sample.images), self.system_prompt)
        text = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return list(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
