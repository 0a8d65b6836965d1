"""vLLM's engine in this process, for language and vision-language models: one engine a rank, or one over the ranks of a replica."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import ConfigError, first_line
from configs.registry import register
from pipelines.base import NO_OPTIONS, Event, QueryOptions, options_of
from pipelines.models.chat_prompts import image_messages, prompt_ids, read_template
from pipelines.models.checkpoint import check_tokenizer, check_transformers_folder, from_pretrained
from pipelines.models.embedded import models_of
from pipelines.models.tensors import check_headers
from pipelines.models.token_events import TokenEvents, stop_tokens, token_set
from pipelines.vllm.options import VllmOptions
from workloads.records import Query, Sample

if TYPE_CHECKING:
    import torch


@register("vllm")
@dataclass
class Vllm(VllmOptions):
    """Options: see VllmOptions."""

    _model: Any = field(default=None, init=False, repr=False)  # pipelines/launcher/worker/inspection.py looks for modules in attributes
    _tokenizer: Any = field(default=None, init=False, repr=False)
    _engine: Any = field(default=None, init=False, repr=False)
    _ends: set[int] = field(default_factory=set, init=False, repr=False)
    _events: Any = field(default=None, init=False, repr=False)
    _facts: dict[str, str] = field(default_factory=dict, init=False, repr=False)
    _folder: str | None = field(default=None, init=False, repr=False)  # a temporary folder
    _owns_groups: bool = field(default=False, init=False, repr=False)  # vLLM initialised torch.distributed

    def load(self, device: torch.device) -> None:
        from pipelines.vllm.engine_args import check_formats, engine_arguments, import_vllm, reason

        if self.workload == "vlm" and not self.chat:
            raise ConfigError("pipeline 'vllm': chat: false is only for workload llm; a chat template places the images")
        self._rocm.check(device, self.replica.size, self.dtype)
        where = self._source()
        check_formats(self, where, device)
        import_vllm(device, self.workload, self._rocm.variables())
        import torch
        from vllm.engine.arg_utils import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        from pipelines.vllm.engine import Engine, process_settings_kept

        self._owns_groups = not torch.distributed.is_initialized()
        self._load_tokenizer(where)
        try:
            with process_settings_kept():
                llm = LLMEngine.from_engine_args(EngineArgs(**engine_arguments(self, where, device)))
        except Exception as error:  # vLLM, transformers, safetensors and the hub raise many kinds
            self._leave_groups()
            raise ConfigError(f"vLLM cannot run model {self._name!r}: {reason(error)}") from error
        self._model = llm.model_executor.driver_worker.worker.model_runner.get_model()
        config = llm.model_config
        own = config.try_get_generation_config().get("eos_token_id", getattr(config.hf_text_config, "eos_token_id", None))
        self._ends |= token_set(self._tokenizer.eos_token_id if own is None else own)  # the rule of transformers
        self._events = TokenEvents(self._tokenizer, self._ends, self.speaks)
        self._engine = Engine(llm, self.replica, self.speaks)
        self._check_model(config)

    def submit(self, samples: Sequence[Sample], queries: Sequence[Query]) -> None:
        from pipelines.vllm.engine import Request

        requests = []
        for sample, query in zip(samples, queries, strict=True):
            options = options_of(query)
            size = sum(len(m["content"]) for m in options.messages) if options.messages else len(sample.prompt)
            if self._events.is_too_long(query.id, size, self.context_length):
                continue
            try:
                ids = self._encode(sample, options)
            except Exception as error:  # a chat template can raise anything
                self._events.refuse(query.id, first_line(error))
                continue
            room = self._events.admit(query.id, len(ids), self.context_length, options)
            if not room:
                continue
            longest, sampling = min(room, self.max_new_tokens, options.max_new_tokens or room), self._sampling(options)
            seed = query.seed if sampling["temperature"] else None
            requests.append(Request(query.id, ids, list(sample.images), longest, sampling, seed))
        self._engine.add(requests)

    def step(self, timeout_s: float) -> Sequence[Event]:
        refusals: list[Event] = self._events.refusals()
        events = refusals or [event for update in self._engine.updates(timeout_s) for event in self._events.events(update)]
        for query_id in self._events.stopped():
            self._engine.cancel(query_id)
        return events

    def cancel(self, query_id: int) -> bool:
        if self.replica.size > 1:  # the ranks of a replica must take the same steps
            return False
        self._engine.cancel(query_id)
        return bool(self._events.forget(query_id))

    def query_options(self) -> frozenset[str]:
        own = {"max_new_tokens", "min_new_tokens", "ignore_eos", "temperature", "top_p", "top_k"}
        if self.chat and self.workload != "vlm":
            own |= {"messages", "bare"}
        return frozenset(own | {"stop"} if self.speaks else own)

    def own_tokenizer(self) -> Any:
        return self._tokenizer

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = self._model = None
            self._leave_groups()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def effective(self) -> Mapping[str, str]:
        from pipelines.vllm.effective import facts

        sampling = f"temperature {self.temperature}, top_k {self.top_k}, top_p {self.top_p}, seeded" if self.do_sample else "greedy"
        return {**facts(self._engine, self._model, self.replica), "sampling": sampling, **self._facts}

    def fallbacks(self) -> Sequence[str]:
        from pipelines.vllm.effective import differences, facts
        from pipelines.vllm.rocm import ineffective_options

        effective = facts(self._engine, self._model, self.replica)
        return [*differences(self, self._engine.llm), *ineffective_options(self._rocm, effective, effective["attention"].split(", "))]

    @property
    def context_length(self) -> int:
        """Tokens of prompt and answer together."""
        return int(self._engine.llm.model_config.max_model_len)

    def _leave_groups(self) -> None:
        """Destroy vLLM's process groups, so that another engine can be made here; the world's group only where vLLM made it."""
        from vllm.distributed.parallel_state import destroy_distributed_environment, destroy_model_parallel

        destroy_model_parallel()
        if self._owns_groups:
            destroy_distributed_environment()

    @property
    def _name(self) -> str:
        return self.architecture if self.weights == "random" and self.architecture else self.model

    def _source(self) -> str:
        """Folder or hub name; for random weights a temporary folder with configuration and tokenizer."""
        if self.weights == "random":
            from pipelines.vllm.checkpoint import write_description

            self._folder, self._facts = write_description(self)
            return self._folder
        embedded = models_of("vlm" if self.workload == "vlm" else "llm")
        path = embedded.get(self.model, Path(self.model))
        if path.exists() or self.model in embedded or self.model.startswith((".", "/", "~")):
            from pipelines.vllm.checkpoint import convert_for_vllm

            check_transformers_folder(path)
            self._check_tensors(path)
            self._folder = convert_for_vllm(path)
            return self._folder or str(path)
        return self.model

    def _check_tensors(self, folder: Path) -> None:
        """Raises ConfigError where a checkpoint is not the network of its configuration, which vLLM 0.32 checks in some classes only."""
        from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

        kind = AutoModelForImageTextToText if self.workload == "vlm" else AutoModelForCausalLM
        if reason := check_headers(folder, kind, self.model):
            self._facts["tensors"] = f"not checked against the configuration: {reason}"

    def _load_tokenizer(self, where: str) -> None:
        from transformers import AutoTokenizer

        built_in = ", ".join(models_of("vlm" if self.workload == "vlm" else "llm"))
        self._tokenizer = from_pretrained(AutoTokenizer, where, self._name, built_in, revision=self.revision)
        if self.chat_template is not None:
            self._tokenizer.chat_template = read_template("vllm", self.chat_template)
        if self.chat and not self._tokenizer.chat_template:
            fix = "name one: chat_template: FILE" + (", or give it bare prompts: chat: false" if self.workload != "vlm" else "")
            raise ConfigError(f"model {self._name!r} has no chat template; {fix}")
        self._ends = stop_tokens("vllm", self.stop, self._tokenizer, self._name)

    def _check_model(self, config: Any) -> None:
        """Raises ConfigError where the loaded model is not the requested one. config: vLLM's ModelConfig."""
        if self.weights == "pretrained" and not Path(config.model).exists():  # a hub name, whose files vLLM has put into the hub's cache
            from huggingface_hub import snapshot_download

            try:
                folder = snapshot_download(config.model, revision=self.revision, local_files_only=True)
            except Exception as error:  # of the hub's library, where they came another way
                self._facts["tensors"] = f"not checked against the configuration: {first_line(error)}"
            else:
                self._check_tensors(Path(folder))
        if self.architecture and self.weights == "pretrained":
            from pipelines.models.architectures import check_match

            check_match(config.hf_config, self.architecture, self.model)
        if self.workload == "vlm" and not config.is_multimodal_model:
            raise ConfigError(f"model {self._name!r} is a {config.hf_config.model_type!r}, which takes no images")
        check_tokenizer(self._tokenizer, config.get_vocab_size(), self._name)

    def _sampling(self, options: QueryOptions) -> dict[str, Any]:
        """Arguments of vLLM's SamplingParams. The end tokens are set here, so that engine and pipeline use the same ones."""
        temperature = options.temperature if options.temperature is not None else self.temperature if self.do_sample else 0.0
        ends: list[int] = [] if options.ignore_eos else sorted(self._ends)
        common = {"stop_token_ids": ends, "ignore_eos": True, "min_tokens": options.min_new_tokens, "temperature": temperature}
        if not temperature:
            return common
        top_k = self.top_k if options.top_k is None else options.top_k
        return common | {"top_k": top_k or 0, "top_p": options.top_p or self.top_p or 1.0}

    def _encode(self, sample: Sample, options: QueryOptions = NO_OPTIONS) -> list[int]:
        if self.workload != "vlm":
            return prompt_ids(self._tokenizer, options.messages or sample.prompt, self.chat and not options.bare, self.system_prompt)
        messages = image_messages(sample.prompt, len(sample.images), self.system_prompt)
        text = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return list(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
