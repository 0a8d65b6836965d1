"""Any transformers vision-language checkpoint, by hub name or local folder: images and a prompt in, text out.

The library's own processor is used where it can be built. Qwen-VL's cannot without torchvision (its video half needs it),
and torchvision has no build for every torch: there `QwenInputs` lays the prompt out itself around the library's PIL image
processor. Both were compared with torchvision 0.28.0 on PNGs of 48 x 48, 30 x 70, 200 x 100 and 3 x 500 pixels, one and
several a prompt: token ids, their kinds and grids are equal, and so are the pixels where no resizing takes place; resized
ones differ by one grey level at most (`tests/pipelines/transformers/test_vlm.py`, which skips where it is absent).

Letters: B queries of a batch, V vocabulary.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from configs.errors import ConfigError, first_line
from configs.registry import register
from pipelines.base import Pipeline, Response
from pipelines.models.chat_prompts import image_messages, one_template, read_image
from pipelines.models.checkpoint import FIX, check_transformers_folder
from pipelines.models.embedded import VISION
from pipelines.models.option_checks import check_fraction, check_positive, check_sampling
from workloads.records import Query, Sample

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

QWEN_TYPES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")  # prompts that QwenInputs can lay out


class _Row(NamedTuple):
    """One query of a batch, read: its place there, its prompt through the chat template, and its images."""

    place: int
    text: str
    images: list[Image]


@register("transformers_vlm")
@dataclass
class TransformersVLM(Pipeline):
    """Options carry transformers' own names; None leaves the checkpoint's own default.

    model: `embedded` (the trained model that comes with the suite), a folder written by save_pretrained, or a hub name.
    dtype: of all weights; `auto` is float32 on a CPU and bfloat16 on a GPU. do_sample: draw tokens instead of taking the
    likeliest; every query draws by its own seed, so its answer does not depend on its batch. system_prompt: put before
    every prompt. chat_template: a Jinja file, for a checkpoint that has none. weights, architecture, shrink: as in transformers_llm.
    """

    model: str = "embedded"
    revision: str | None = None
    weights: Literal["pretrained", "random"] = "pretrained"
    architecture: str | None = None
    shrink: dict[str, Any] | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    attn_implementation: str | None = None
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
    _facts: dict[str, str] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.architecture or self.shrink or self.weights == "random":
            from pipelines.models.random_weights import check_options

            check_options("transformers_vlm", self.weights, self.architecture, self.shrink)
        check_positive("transformers_vlm", self, ("batch_size", "max_new_tokens", "top_k", "temperature"))
        check_fraction("transformers_vlm", self, ("top_p",))
        check_sampling("transformers_vlm", self)

    def load(self, device: torch.device) -> None:
        import torch
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
        config = self._fetch(AutoConfig, where, **common)
        if type(config) not in AutoModelForImageTextToText._model_mapping:
            raise ConfigError(f"model {self.model!r} is a {config.model_type!r}, which does not answer about images")
        if self.architecture:
            from pipelines.models.architectures import check_match

            check_match(config, self.architecture, self.model)
        self._tokenizer = self._fetch(AutoTokenizer, where, **common)
        self._inputs = self._make_inputs(where, config, common)
        options: dict[str, Any] = {"dtype": getattr(torch, self._dtype_name(device)), "use_safetensors": True, **common}
        if self.attn_implementation:
            options["attn_implementation"] = self.attn_implementation
        self._model, told = self._fetch(AutoModelForImageTextToText, where, output_loading_info=True, **options)
        if absent := sorted(told["missing_keys"]):
            raise ConfigError(f"checkpoint {where!r} is incomplete: it lacks {len(absent)} weights, the first is {absent[0]!r}; {FIX}")
        self._check_tokenizer()
        self._model.eval().to(device)
        self._generation = self._generation_config()

    def generate(self, samples: Sequence[Sample], queries: Sequence[Query]) -> Sequence[Response]:
        import torch
        from transformers import LogitsProcessorList

        began = time.perf_counter()
        answers: dict[int, Response] = {}
        rows, inputs = self._encode(samples, answers)
        if rows:
            watch = _Watch(self._model.device)
            prepared = watch.now()
            prompt_length = inputs["input_ids"].shape[1]
            processors = [watch.processor]
            if self.do_sample:
                processors += self._choosers([queries[row.place].seed for row in rows], prompt_length)
            with torch.inference_mode():
                out_BS = self._model.generate(
                    **inputs, generation_config=self._generation, logits_processor=LogitsProcessorList(processors)
                )
            done = watch.now()
            stages = {"preprocess": prepared - began, "prefill": watch.first - prepared, "decode": done - watch.first}
            lengths, finite = inputs["attention_mask"].sum(1).tolist(), watch.finite()
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
            "processor": self._inputs.name,
            "decoding": self._decoding() + (f", repetition_penalty {penalty:g}" if penalty not in (None, 1.0) else ""),
            "quantisation": str(getattr(config, "quantization_config", None) or "none"),
            **self._facts,
        }

    def fallbacks(self) -> Sequence[str]:
        found = []
        dtype = self.effective()["dtype"]
        if self.dtype != "auto" and dtype != self.dtype:
            found.append(f"dtype is {dtype}, not {self.dtype}")
        if self.attn_implementation:
            found += [
                f"attention is {one}, not {self.attn_implementation}"
                for one in sorted(set(self._attentions()) - {self.attn_implementation})
            ]
        return found

    def _draw(self, device: torch.device) -> None:
        import torch
        from transformers import AutoImageProcessor, AutoModelForImageTextToText

        from pipelines.models.architectures import folder_of
        from pipelines.models.random_weights import language_model

        assert self.architecture is not None  # as __post_init__ has checked
        dtype = getattr(torch, self._dtype_name(device))
        self._model, self._tokenizer, self._facts = language_model(
            AutoModelForImageTextToText, self.model, self.architecture, self.shrink, device, dtype, self.attn_implementation
        )
        config = self._model.config
        if config.model_type not in QWEN_TYPES:
            raise ConfigError(f"architecture {self.architecture!r} is a {config.model_type!r}; random weights need one of {QWEN_TYPES}")
        processor = self._fetch(AutoImageProcessor, str(folder_of(self.architecture)))
        template = self._own_template() or one_template(self._tokenizer)
        self._inputs = QwenInputs(processor, self._tokenizer, config.image_token_id, template)
        self._check_tokenizer()
        self._generation = self._generation_config()

    def _dtype_name(self, device: torch.device) -> str:
        if self.dtype != "auto":
            return self.dtype
        return "float32" if device.type == "cpu" else "bfloat16"

    def _attentions(self) -> list[str]:
        config = self._model.config
        return [
            str(getattr(config, part, config)._attn_implementation) for part in ("text_config", "vision_config") if hasattr(config, part)
        ]

    def _decoding(self) -> str:
        if not self.do_sample:
            return "greedy"
        return ", ".join([f"sampled by the query's seed, temperature {self._setting('temperature') or 1.0:g}", *self._cuts()])

    def _cuts(self) -> Iterator[str]:
        for name in ("top_k", "top_p"):
            if (value := self._setting(name)) is not None:
                yield f"{name} {value:g}"

    def _setting(self, name: str) -> Any:
        """A sampling option, the checkpoint's own where it was left out."""
        given = getattr(self, name)
        return given if given is not None else getattr(self._model.generation_config, name, None)

    def _fetch(self, kind: Any, where: str, **options: Any) -> Any:
        """`kind.from_pretrained`, its many errors told as ConfigError."""
        try:
            return kind.from_pretrained(where, **options)
        except Exception as error:  # transformers, safetensors and the hub raise many kinds
            raise ConfigError(f"model {self.model!r} cannot be loaded: {_reason(error, where)}") from error

    def _make_inputs(self, where: str, config: Any, common: Mapping[str, Any]) -> LibraryInputs | QwenInputs:
        from transformers import AutoImageProcessor, AutoProcessor, ProcessorMixin

        template = self._own_template()
        self._tokenizer.padding_side = "left"
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        problem = "it has no processor_config.json"
        try:
            processor = AutoProcessor.from_pretrained(where, **common)
        except ImportError as error:
            processor, problem = None, first_line(error)
        except Exception as error:
            if config.model_type not in QWEN_TYPES:
                raise ConfigError(f"model {self.model!r}: its processor cannot be built: {_reason(error, where)}") from error
            processor = None
        inputs: LibraryInputs | QwenInputs
        if isinstance(processor, ProcessorMixin) and hasattr(processor, "image_processor"):
            processor.tokenizer = self._tokenizer
            inputs = LibraryInputs(processor, template or one_template(processor) or one_template(self._tokenizer))
        elif config.model_type in QWEN_TYPES:
            image_processor = self._fetch(AutoImageProcessor, where, **common)
            inputs = QwenInputs(image_processor, self._tokenizer, config.image_token_id, template or one_template(self._tokenizer))
        else:
            raise ConfigError(
                f"model {self.model!r}: its processor cannot be built: {problem}; install what it names in the build for your torch"
            )
        if not inputs.template:
            raise ConfigError(
                f"model {self.model!r} has no chat template; put its chat_template.jinja beside it, or name one: chat_template: FILE"
            )
        return inputs

    def _own_template(self) -> str | None:
        if self.chat_template is None:
            return None
        try:
            return Path(self.chat_template).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"pipeline 'transformers_vlm': chat_template {self.chat_template!r} cannot be read: {first_line(error)}"
            ) from None

    def _check_tokenizer(self) -> None:
        highest = max(self._tokenizer.get_vocab().values(), default=-1)
        known = self._model.get_input_embeddings().num_embeddings
        if highest >= known:
            raise ConfigError(
                f"model {self.model!r}: its tokenizer has token ids up to {highest}, the model knows those below {known}; "
                "give the tokenizer that it was trained with"
            )
        image_id = getattr(self._model.config, "image_token_id", None)
        ids = self._tokenizer(self._inputs.render("a question", 1, self.system_prompt), add_special_tokens=False)["input_ids"]
        if image_id is not None and image_id not in ids:
            raise ConfigError(
                f"model {self.model!r}: its chat template and tokenizer give no token {image_id}, which stands for an image; "
                "give the tokenizer and template that it was trained with"
            )

    def _generation_config(self) -> Any:
        """The checkpoint's own, but for what this pipeline decides: it draws tokens itself, by each query's seed."""
        config = copy.deepcopy(self._model.generation_config)
        config.do_sample, config.num_beams, config.max_new_tokens, config.max_length = False, 1, self.max_new_tokens, None
        config.temperature = config.top_p = config.top_k = None
        if config.eos_token_id is None:
            config.eos_token_id = self._tokenizer.eos_token_id
        if config.pad_token_id is None:
            config.pad_token_id = self._tokenizer.pad_token_id
        return config

    def _encode(self, samples: Sequence[Sample], answers: dict[int, Response]) -> tuple[list[_Row], dict[str, torch.Tensor]]:
        """The rows that can be answered and the model's inputs for them; the others get an answer that says why not."""
        rows = []
        for place, sample in enumerate(samples):
            try:
                images = [read_image(data, f"image {i} of {len(sample.images)}") for i, data in enumerate(sample.images, start=1)]
                rows.append(_Row(place, self._inputs.render(sample.prompt, len(images), self.system_prompt), images))
            except Exception as error:  # a chat template can raise anything
                answers[place] = Response(error=first_line(error))
        encoded = self._encode_rows(rows, answers)
        if context := getattr(self._model.config.get_text_config(), "max_position_embeddings", None):
            lengths = encoded["attention_mask"].sum(1).tolist() if rows else []
            for row, length in zip(list(rows), lengths, strict=True):
                if length + self.max_new_tokens > context:
                    message = f"the prompt is {length} tokens with its images and the answer may be {self.max_new_tokens}"
                    answers[row.place] = Response(error=f"{message}: over the model's {context}", num_input_tokens=length)
                    rows.remove(row)
            if len(rows) < len(lengths):
                encoded = self._encode_rows(rows, answers)
        device, dtype = self._model.device, self._model.dtype
        return rows, {k: v.to(device, dtype if v.is_floating_point() else None) for k, v in encoded.items()}

    def _encode_rows(self, rows: list[_Row], answers: dict[int, Response]) -> dict[str, Any]:
        """All rows in one batch; where that fails, those that fail alone are taken out of `rows` first."""
        if not rows:
            return {}
        try:
            encoded: dict[str, Any] = self._inputs.encode(rows)
            return encoded
        except Exception:  # an image's or a prompt's fault: find out whose
            for row in list(rows):
                try:
                    self._inputs.encode([row])
                except Exception as error:
                    answers[row.place] = Response(error=first_line(error))
                    rows.remove(row)
            return self._inputs.encode(rows) if rows else {}

    def _choosers(self, seeds: Sequence[int], prompt_length: int) -> list[Any]:
        from pipelines.transformers.seeded_sampling import BatchNoise, warpers

        settings = warpers(self._setting("temperature"), self._setting("top_k"), self._setting("top_p"))
        return [*settings, BatchNoise(seeds, prompt_length)]

    def _response(self, tokens: Sequence[int], num_input_tokens: int, stages: Mapping[str, float], finite: bool) -> Response:
        ends = self._generation.eos_token_id
        ends = set(ends) if isinstance(ends, Sequence) else {ends}
        end = next((i for i, token in enumerate(tokens) if token in ends), None)
        said = tokens if end is None else tokens[: end + 1]
        return Response(
            text=self._tokenizer.decode(said, skip_special_tokens=True),
            stages=stages,
            num_units=len(said),
            num_input_tokens=num_input_tokens,
            first_token_id=said[0],
            token_ids=list(said),
            finish_reason="length" if end is None else "stop",
            finite=finite,
        )


class LibraryInputs:
    """Model inputs by the checkpoint's own processor."""

    def __init__(self, processor: Any, template: str | None) -> None:
        self.processor, self.template = processor, template
        self.name = type(processor).__name__

    def render(self, prompt: str, num_images: int, system_prompt: str | None) -> str:
        messages = image_messages(prompt, num_images, system_prompt)
        return str(self.processor.apply_chat_template(messages, chat_template=self.template, add_generation_prompt=True, tokenize=False))

    def encode(self, rows: Sequence[_Row]) -> dict[str, Any]:
        images = [row.images for row in rows] if any(row.images for row in rows) else None
        return dict(
            self.processor(text=[row.text for row in rows], images=images, padding=True, return_tensors="pt", **self._no_start(rows))
        )

    def _no_start(self, rows: Sequence[_Row]) -> dict[str, bool]:
        """Where the template has written the start token already, the tokenizer is not to add a second one."""
        start = self.processor.tokenizer.bos_token
        return {"add_special_tokens": False} if start and rows[0].text.startswith(start) else {}


class QwenInputs:
    """Model inputs for the Qwen-VL family, laid out here: each image's one token becomes as many as it has merged patches."""

    def __init__(self, image_processor: Any, tokenizer: Any, image_id: int, template: str | None) -> None:
        self.image_processor, self.tokenizer, self.image_id, self.template = image_processor, tokenizer, image_id, template
        self.name = f"{type(image_processor).__name__}, prompts laid out by the suite"

    def render(self, prompt: str, num_images: int, system_prompt: str | None) -> str:
        messages = image_messages(prompt, num_images, system_prompt)
        return str(self.tokenizer.apply_chat_template(messages, chat_template=self.template, add_generation_prompt=True, tokenize=False))

    def encode(self, rows: Sequence[_Row]) -> dict[str, Any]:
        """Raises ValueError where a prompt has another number of image tokens than images, or an image cannot be used."""
        import torch

        images = [image for row in rows for image in row.images]
        encoded = dict(self.image_processor(images=images, return_tensors="pt")) if images else {}
        merged = [int(grid.prod()) // self.image_processor.merge_size**2 for grid in encoded.get("image_grid_thw", ())]
        sizes = iter(merged)
        prompts = []
        for row in rows:
            ids = self.tokenizer(row.text)["input_ids"]
            if ids.count(self.image_id) != len(row.images):
                raise ValueError(
                    f"the prompt has {ids.count(self.image_id)} image tokens for {len(row.images)} images; "
                    f"leave {self.tokenizer.decode([self.image_id])!r} out of its text"
                )
            prompts.append([i for token in ids for i in [token] * (next(sizes) if token == self.image_id else 1)])
        padded = self.tokenizer.pad({"input_ids": prompts}, return_tensors="pt", padding_side="left")
        kinds = (padded["input_ids"] == self.image_id).to(torch.int32)
        return {"input_ids": padded["input_ids"], "attention_mask": padded["attention_mask"], "mm_token_type_ids": kinds, **encoded}


class _Watch:
    """Sees every step's logits: when the first came, and whether a row's were ever not finite."""

    def __init__(self, device: torch.device) -> None:
        self._device, self.first = device, 0.0
        self._largest: torch.Tensor | None = None

    def now(self) -> float:
        import torch

        if self._device.type != "cpu":
            torch.accelerator.synchronize(self._device)
        return time.perf_counter()

    def processor(self, input_ids: torch.Tensor, scores_BV: torch.Tensor) -> torch.Tensor:
        if not self.first:
            self.first = self.now()
        largest = scores_BV.amax(-1)  # NaN and infinity come through
        self._largest = largest if self._largest is None else self._largest + largest
        return scores_BV

    def finite(self) -> list[bool]:
        assert self._largest is not None, "finite is asked after generate"
        found: list[bool] = self._largest.isfinite().tolist()
        return found


def _reason(error: BaseException, where: str) -> str:
    """What is wrong with a checkpoint and what to do, from what the libraries raise."""
    names = set()
    link: BaseException | None = error
    while link is not None:
        names |= {kind.__name__ for kind in type(link).__mro__}
        link = link.__cause__ or link.__context__
    if "GatedRepoError" in names:
        return "it is gated; accept its terms on the hub, then run `hf auth login` or set HF_TOKEN"
    if names & {"LocalEntryNotFoundError", "OfflineModeIsEnabled"}:
        return f"it is not on this disk and the hub cannot be reached; run `hf download {where}` where it can be, or give a folder"
    if "RepositoryNotFoundError" in names:
        return "the hub has no such model, or it is private; check the name, and for a private one set HF_TOKEN"
    return f"{first_line(error)}; give a folder written by save_pretrained or a hub name"
