"""Any transformers vision-language checkpoint, by hub name or local folder: images and a prompt in, text out."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from configs.errors import ConfigError, first_line
from configs.registry import register
from pipelines.base import Pipeline, Response
from pipelines.models.chat_prompts import default_template, read_image, read_template
from pipelines.models.checkpoint import check_tokenizer, check_transformers_folder, from_pretrained
from pipelines.models.embedded import VISION
from pipelines.models.option_checks import check_fraction, check_positive, check_sampling, resolve_dtype
from pipelines.models.tensors import load_network
from pipelines.transformers.vlm_inputs import QWEN_TYPES, QwenInputs, Row, check_image_token, encode, make_inputs
from workloads.records import Query, Sample

if TYPE_CHECKING:
    import torch


@register("transformers_vlm")
@dataclass
class TransformersVLM(Pipeline):
    """Options have transformers' names; None keeps the checkpoint's default.

    model: `embedded` (the trained model that comes with the suite), a folder written by save_pretrained, or a hub name.
    dtype: of all weights; `auto` is float32 on a CPU and bfloat16 on a GPU. do_sample: sample tokens instead of taking the
    likeliest; every query has its own seed, so its answer does not depend on its batch. system_prompt: placed before
    every prompt. chat_template: a Jinja file, for a checkpoint that has none. weights, architecture, shrink: as in transformers_llm.
    revision: of the model on the hub. attn_implementation: one of transformers' attention implementations, such as `sdpa`. batch_size:
    queries answered together. max_new_tokens: the longest answer, in tokens. temperature: divides the logits before sampling. top_k:
    sample among this many of the likeliest tokens. top_p: sample among the likeliest tokens that reach this share together.
    use_cuda_graph: replay decoding steps from CUDA graphs; the default where device and model allow it.
    """

    model: str = "embedded"
    revision: str | None = None
    weights: Literal["pretrained", "random"] = "pretrained"
    architecture: str | None = None
    shrink: dict[str, Any] | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    attn_implementation: str | None = None
    use_cuda_graph: bool | None = None
    batch_size: int = 16
    max_new_tokens: int = 64
    do_sample: bool = False
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    system_prompt: str | None = None
    chat_template: str | None = None

    workloads: ClassVar[tuple[str, ...]] = ("vlm",)

    _model: Any = field(default=None, init=False, repr=False)
    _tokenizer: Any = field(default=None, init=False, repr=False)
    _inputs: Any = field(default=None, init=False, repr=False)
    _generation: Any = field(default=None, init=False, repr=False)
    _graphs: Any = field(default="not loaded", init=False, repr=False)
    _facts: dict[str, str] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.architecture or self.shrink or self.weights == "random":
            from pipelines.models.random_weights import check_options

            check_options("transformers_vlm", self.weights, self.architecture, self.shrink)
        check_positive("transformers_vlm", self, ("batch_size", "max_new_tokens", "top_k", "temperature"))
        check_fraction("transformers_vlm", self, ("top_p",))
        check_sampling("transformers_vlm", self)

    def load(self, device: torch.device) -> None:
        from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        if self.weights == "random":
            self._draw(device)
            return
        where = str(VISION) if self.model == "embedded" else self.model
        if self.model == "embedded" or Path(where).exists() or where.startswith((".", "/", "~")):
            check_transformers_folder(Path(where))
        common: dict[str, Any] = {"revision": self.revision, "trust_remote_code": False}
        config = from_pretrained(AutoConfig, where, self.model, **common)
        if type(config) not in AutoModelForImageTextToText._model_mapping:
            raise ConfigError(f"model {self.model!r} is a {config.model_type!r}, which takes no images")
        if self.architecture:
            from pipelines.models.architectures import check_match

            check_match(config, self.architecture, self.model)
        self._tokenizer = from_pretrained(AutoTokenizer, where, self.model, **common)
        self._inputs = make_inputs(where, self.model, config, self._tokenizer, self._template(), **common)
        options: dict[str, Any] = {"dtype": resolve_dtype(self.dtype, device), "use_safetensors": True, **common}
        if self.attn_implementation:
            options["attn_implementation"] = self.attn_implementation
        self._model = load_network(AutoModelForImageTextToText, where, self.model, **options)
        self._model.eval().to(device)
        self._finish()

    def generate(self, samples: Sequence[Sample], queries: Sequence[Query]) -> Sequence[Response]:
        import torch
        from transformers import LogitsProcessorList

        from pipelines.transformers.generation_timer import GenerationTimer

        began = time.perf_counter()
        answers: dict[int, Response] = {}
        rows, inputs = self._encode(samples, answers)
        if rows:
            timer = GenerationTimer(self._model.device)
            prepared = timer.now()
            prompt_length = inputs["input_ids"].shape[1]
            processors = [timer.watch]
            if self.do_sample:
                processors += self._samplers([queries[row.place].seed for row in rows], prompt_length)
            arguments = {**inputs, "generation_config": self._generation, "logits_processor": LogitsProcessorList(processors)}
            with torch.inference_mode():
                if isinstance(self._graphs, str):
                    out_BS = self._model.generate(**arguments)
                else:
                    cache = self._graphs.cache_for(len(rows), prompt_length + self.max_new_tokens)
                    out_BS = self._graphs.generate(**arguments, past_key_values=cache)
            done = timer.now()
            stages = {"preprocess": prepared - began, "prefill": timer.first_token_time - prepared, "decode": done - timer.first_token_time}
            lengths, finite = inputs["attention_mask"].sum(1).tolist(), timer.finite()
            for row, tokens, length, is_finite in zip(rows, out_BS[:, prompt_length:].tolist(), lengths, finite, strict=True):
                answers[row.place] = self._response(tokens, length, stages, is_finite)
        return [answers[place] for place in range(len(samples))]

    def effective(self) -> Mapping[str, str]:
        config = self._model.config
        penalty = getattr(self._generation, "repetition_penalty", None)
        return {
            "model": type(self._model).__name__,
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "attention": ", ".join(sorted(set(self._attentions()))),
            "cuda_graphs": f"none: {self._graphs}" if isinstance(self._graphs, str) else "decoding",
            "processor": self._inputs.name,
            "decoding": self._decoding() + (f", repetition_penalty {penalty:g}" if penalty not in (None, 1.0) else ""),
            "quantisation": str(getattr(config, "quantization_config", None) or "none"),
            **self._facts,
        }

    def fallbacks(self) -> Sequence[str]:
        fallbacks = []
        dtype = self.effective()["dtype"]
        if self.dtype != "auto" and dtype != self.dtype:
            fallbacks.append(f"dtype is {dtype}, not {self.dtype}")
        if self.attn_implementation:
            fallbacks += [
                f"attention is {one}, not {self.attn_implementation}"
                for one in sorted(set(self._attentions()) - {self.attn_implementation})
            ]
        return fallbacks

    def _draw(self, device: torch.device) -> None:
        from transformers import AutoImageProcessor, AutoModelForImageTextToText

        from pipelines.models.architectures import folder_of
        from pipelines.models.random_weights import language_model

        assert self.architecture is not None  # checked by __post_init__
        dtype = resolve_dtype(self.dtype, device)
        self._model, self._tokenizer, self._facts = language_model(
            AutoModelForImageTextToText, self.model, self.architecture, self.shrink, device, dtype, self.attn_implementation
        )
        config = self._model.config
        if config.model_type not in QWEN_TYPES:
            raise ConfigError(
                f"architecture {self.architecture!r} is a {config.model_type!r}; random weights are supported for {', '.join(QWEN_TYPES)}"
            )
        processor = from_pretrained(AutoImageProcessor, str(folder_of(self.architecture)), self.model)
        template = self._template() or default_template(self._tokenizer)
        self._inputs = QwenInputs(processor, self._tokenizer, config.image_token_id, template)
        self._finish()

    def _template(self) -> str | None:
        return read_template("transformers_vlm", self.chat_template)

    def _attentions(self) -> list[str]:
        config = self._model.config
        return [
            str(getattr(config, part, config)._attn_implementation) for part in ("text_config", "vision_config") if hasattr(config, part)
        ]

    def _decoding(self) -> str:
        if not self.do_sample:
            return "greedy"
        return ", ".join([f"sampled by the query's seed, temperature {self._setting('temperature') or 1.0:g}", *self._truncation()])

    def _truncation(self) -> Iterator[str]:
        for name in ("top_k", "top_p"):
            if (value := self._setting(name)) is not None:
                yield f"{name} {value:g}"

    def _setting(self, name: str) -> Any:
        """A sampling option; the checkpoint's own value where it is not set."""
        value = getattr(self, name)
        return value if value is not None else getattr(self._model.generation_config, name, None)

    def _finish(self) -> None:
        """Check that model, tokenizer and template fit each other, and set how answers are generated."""
        from pipelines.transformers.decode_graphs import make_graphs

        check_tokenizer(self._tokenizer, self._model.get_input_embeddings().num_embeddings, self.model)
        check_image_token(self._inputs, self._model.config, self._tokenizer, self.system_prompt, self.model)
        config = copy.deepcopy(self._model.generation_config)  # the checkpoint's own; tokens are sampled here, by each query's seed
        config.do_sample, config.num_beams, config.max_new_tokens, config.max_length = False, 1, self.max_new_tokens, None
        config.temperature = config.top_p = config.top_k = None
        if config.eos_token_id is None:
            config.eos_token_id = self._tokenizer.eos_token_id
        if config.pad_token_id is None:
            config.pad_token_id = self._tokenizer.pad_token_id
        self._generation = config
        self._graphs = "use_cuda_graph is false" if self.use_cuda_graph is False else make_graphs(self._model)

    def _encode(self, samples: Sequence[Sample], answers: dict[int, Response]) -> tuple[list[Row], dict[str, torch.Tensor]]:
        """The rows that can be answered, and the model's inputs for them. For the others, `answers` gets an error."""
        rows = []
        for place, sample in enumerate(samples):
            try:
                images = [read_image(data, f"image {i} of {len(sample.images)}") for i, data in enumerate(sample.images, start=1)]
                rows.append(Row(place, self._inputs.render(sample.prompt, len(images), self.system_prompt), images))
            except Exception as error:  # a chat template can raise anything
                answers[place] = Response(error=first_line(error))
        encoded = self._encode_rows(rows, answers)
        if context := getattr(self._model.config.get_text_config(), "max_position_embeddings", None):
            lengths = encoded["attention_mask"].sum(1).tolist() if rows else []
            for row, length in zip(list(rows), lengths, strict=True):
                if length + self.max_new_tokens > context:
                    tokens = f"{length} tokens of the prompt with its images and {self.max_new_tokens} of the answer"
                    answers[row.place] = Response(error=f"{tokens} are over the model's {context}", num_input_tokens=length)
                    rows.remove(row)
            if len(rows) < len(lengths):
                encoded = self._encode_rows(rows, answers)
        device, dtype = self._model.device, self._model.dtype
        return rows, {k: v.to(device, dtype if v.is_floating_point() else None) for k, v in encoded.items()}

    def _encode_rows(self, rows: list[Row], answers: dict[int, Response]) -> dict[str, Any]:
        encoded, errors = encode(self._inputs, rows)
        answers |= {place: Response(error=error) for place, error in errors.items()}
        return encoded

    def _samplers(self, seeds: Sequence[int], prompt_length: int) -> list[Any]:
        from pipelines.transformers.seeded_sampling import BatchNoise, warpers

        truncation = warpers(self._setting("temperature"), self._setting("top_k"), self._setting("top_p"))
        return [*truncation, BatchNoise(seeds, prompt_length)]

    def _response(self, tokens: Sequence[int], num_input_tokens: int, stages: Mapping[str, float], finite: bool) -> Response:
        ends = self._generation.eos_token_id
        ends = set(ends) if isinstance(ends, Sequence) else {ends}
        end = next((i for i, token in enumerate(tokens) if token in ends), None)
        answer = tokens if end is None else tokens[: end + 1]
        return Response(
            text=self._tokenizer.decode(answer, skip_special_tokens=True),
            stages=stages,
            num_units=len(answer),
            num_input_tokens=num_input_tokens,
            first_token_id=answer[0],
            token_ids=list(answer),
            finish_reason="length" if end is None else "stop",
            finite=finite,
        )
