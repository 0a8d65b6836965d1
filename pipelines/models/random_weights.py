"""Published architectures with random weights: for throughput without a download and, shrunk, for machines of any size.

A network is built on the meta device, without memory. Its memory is then allocated on the device that it runs on, and the weights are
drawn there, so there is never a second copy. transformers models are initialised by their own `_init_weights`, diffusers parts by the
`reset_parameters` of torch's layers. The seed is fixed: the same architecture is the same network in every run.

Such a network costs what a trained one costs, and its answers are meaningless; a report withholds their quality.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from configs.errors import ConfigError, first_line
from pipelines.models import architectures
from pipelines.models.architectures import Shrink
from pipelines.models.byte_tokenizer import VISION, byte_tokenizer

if TYPE_CHECKING:
    import torch

SEED = 20_260
IMAGE_PARTS = ("image_processor", "feature_extractor")


class ModelDescription(NamedTuple):
    """A model without weights: transformers' configurations, with the token ids of its tokenizer. facts: as in RandomModel."""

    config: Any
    generation: Any
    tokenizer: Any
    facts: dict[str, str]


class RandomModel(NamedTuple):
    """A model with random weights. facts: for `effective`: weights, architecture, shrink and the tokenizer's origin."""

    model: Any
    tokenizer: Any
    facts: dict[str, str]


def check_options(pipeline: str, weights: str, architecture: str | None, shrink: Mapping[str, Any] | None) -> None:
    """Raises ConfigError where an option would have no effect, or an architecture does not exist."""
    if weights == "pretrained" and shrink:
        raise ConfigError(f"pipeline {pipeline!r}: shrink needs weights: random; a checkpoint's weights have a fixed size")
    if weights == "random" and architecture is None:
        names = ", ".join(architectures.names())
        raise ConfigError(f"pipeline {pipeline!r}: weights: random needs an architecture: one of {names}, or a folder with a config.json")
    if architecture is not None:
        architectures.folder_of(architecture)
    Shrink.parse(shrink)


def describe_model(kind: Any, model: str, architecture: str, shrink: Mapping[str, Any] | None) -> ModelDescription:
    """kind: the transformers auto class that the architecture must belong to. model: its tokenizer is used where it is available."""
    from transformers import GenerationConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    folder, factors = architectures.folder_of(architecture), Shrink.parse(shrink)
    values = architectures.transformers_values(folder, factors)
    if values.get("model_type") not in CONFIG_MAPPING:
        raise ConfigError(f"architecture {architecture!r} is a {values.get('model_type')!r}, which this transformers does not support")
    with _quiet("transformers"):  # warnings about token ids beyond a shrunk vocabulary
        config = CONFIG_MAPPING[values.pop("model_type")].from_dict(values)
    if type(config) not in kind._model_mapping:
        raise ConfigError(
            f"architecture {architecture!r} is a {config.model_type!r}, which is not a {kind.__name__.removeprefix('AutoModelFor')}"
        )
    text = config.get_text_config()
    tokenizer, origin = _tokenizer(model, text.vocab_size, factors)
    generation = GenerationConfig()
    if (folder / "generation_config.json").is_file():
        generation = GenerationConfig.from_pretrained(folder)
    if origin is None:
        _set_token_ids(config, generation, tokenizer)
    return ModelDescription(config, generation, tokenizer, _facts(architecture, factors, origin))


def language_model(
    kind: Any,
    model: str,
    architecture: str,
    shrink: Mapping[str, Any] | None,
    device: torch.device,
    dtype: torch.dtype,
    attention: str | None,
    shares: Mapping[str, Any] | None = None,
) -> RandomModel:
    """The same with weights. shares: arguments of `tensor_parallel.sharded`, with which each rank draws only its own part."""
    config, generation, tokenizer, facts = describe_model(kind, model, architecture, shrink)
    network = draw_transformers(kind._model_mapping[type(config)], config, device, dtype, attention, shares)
    network.generation_config = generation
    return RandomModel(network, tokenizer, facts)


def draw_transformers(
    cls: Any,
    config: Any,
    device: torch.device,
    dtype: torch.dtype,
    attention: str | None = None,
    shares: Mapping[str, Any] | None = None,
) -> Any:
    """A network of this class and configuration. The library's loader initialises all weights, since no checkpoint has them."""
    import torch
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    place: dict[str, Any] = {} if device.type == "cpu" or shares else {"device_map": {"": device}}
    try:
        with _seeded(device), _quiet("transformers"), torch.no_grad():
            return cls.from_pretrained(
                None, config=config, state_dict={}, dtype=dtype, attn_implementation=attention, **place, **(shares or {})
            ).eval()
    except (ValueError, ImportError, RuntimeError) as error:
        raise ConfigError(f"{cls.__name__} cannot be made with random weights: {first_line(error)}") from error


def video_pipeline(
    architecture: str, shrink: Mapping[str, Any] | None, model: str, device: torch.device, dtype: torch.dtype
) -> RandomModel:
    """A diffusers pipeline with random weights; `tokenizer` is its own."""
    import diffusers
    import transformers

    folder, factors = architectures.folder_of(architecture), Shrink.parse(shrink)
    index = architectures.read(folder, "model_index.json")
    seen = [name for name, entry in index.items() if isinstance(entry, list) and entry[0] and name.startswith(("tokenizer", *IMAGE_PARTS))]
    if seen != ["tokenizer"]:
        raise ConfigError(
            f"architecture {architecture!r} has {len(seen)} tokenizers and image processors ({', '.join(seen)}). weights: random "
            "makes only one tokenizer, and the prompt template is counted in their tokens. Give a checkpoint with weights: pretrained"
        )
    parts: dict[str, Any] = {}
    for name, values in architectures.diffusers_values(folder, factors).items():
        library, class_name = index[name]
        cls = getattr({"diffusers": diffusers, "transformers": transformers}.get(library), class_name, None)
        if cls is None:
            raise ConfigError(f"architecture {architecture!r}: part {name!r} is a {class_name} of {library}, which is not installed")
        if library == "transformers":
            parts[name] = draw_transformers(cls, cls.config_class.from_dict(values), device, dtype)
        elif issubclass(cls, diffusers.ModelMixin):
            parts[name] = draw_diffusers(cls, values, device, dtype)
        else:
            parts[name] = cls.from_config(values)
    tokenizer, origin = _tokenizer(model, parts["text_encoder"].config.vocab_size, factors, subfolder="tokenizer")
    plain = {name: value for name, value in index.items() if not name.startswith("_") and not isinstance(value, list)}
    pipe = getattr(diffusers, index["_class_name"])(tokenizer=tokenizer, **parts, **plain)
    return RandomModel(pipe, tokenizer, _facts(architecture, factors, origin))


def draw_diffusers(cls: Any, values: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> Any:
    """A part of a diffusers pipeline; parameters that the class keeps in float32 stay so."""
    import torch
    from accelerate import init_empty_weights
    from diffusers.models.modeling_utils import no_init_weights

    with no_init_weights(), init_empty_weights():  # buffers are computed; parameters have no memory yet
        made = cls.from_config(dict(values))
    exact = tuple(made._keep_in_fp32_modules or ()) if dtype != torch.float32 else ()
    with _seeded(device), torch.no_grad():
        for path, module in made.named_modules():
            for name, meta in list(module._parameters.items()):
                if meta is not None:
                    wanted = torch.float32 if any(part in f"{path}.{name}".split(".") for part in exact) else dtype
                    module._parameters[name] = torch.nn.Parameter(torch.empty(meta.shape, dtype=wanted, device=device), requires_grad=False)
            _draw(module)
            for name, buffer in list(module._buffers.items()):
                if buffer is not None:
                    module._buffers[name] = buffer.to(device)
    return made.eval()


def _draw(module: Any) -> None:
    """By torch's own method where the layer has one; else scales are 1, shifts 0 and tables small."""
    import torch

    if hasattr(module, "reset_parameters"):
        module.reset_parameters()
        return
    for name, parameter in module._parameters.items():
        if parameter is None:
            continue
        if name in ("weight", "gamma"):
            torch.nn.init.ones_(parameter)
        elif name in ("bias", "beta"):
            torch.nn.init.zeros_(parameter)
        else:
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)


def _tokenizer(model: str, vocabulary: int, shrink: Shrink, **where: str) -> tuple[Any, str | None]:
    """The model's tokenizer and its id, where it is available and fits the vocabulary; else one of bytes, and None."""
    from transformers import AutoTokenizer

    if shrink.vocabulary is None and model != "embedded":
        for offline in (True, False):
            with (
                contextlib.suppress(Exception),
                _quiet("transformers", "huggingface_hub"),
            ):  # not cached, gated, unreachable
                tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=offline, trust_remote_code=False, **where)
                if max(tokenizer.get_vocab().values(), default=vocabulary) < vocabulary:
                    return tokenizer, model
    return byte_tokenizer(vocabulary), None


def _set_token_ids(config: Any, generation: Any, tokenizer: Any) -> None:
    """Give the configurations the tokenizer's ids of special tokens."""
    for one in {id(c): c for c in (config, config.get_text_config(), generation)}.values():
        one.bos_token_id, one.eos_token_id, one.pad_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    for name, token in zip(("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id"), VISION, strict=True):
        if hasattr(config, name):
            setattr(config, name, tokenizer.convert_tokens_to_ids(token))


def _facts(architecture: str, shrink: Shrink, tokenizer: str | None) -> dict[str, str]:
    facts = {"weights": "random", "architecture": Path(architecture).name, "shrink": str(shrink)}
    return facts | {"tokenizer": tokenizer or "bytes, made on the spot"}


@contextlib.contextmanager
def _seeded(device: torch.device) -> Iterator[None]:
    import torch

    with torch.random.fork_rng([] if device.type == "cpu" else [device]):
        torch.manual_seed(SEED)
        yield


@contextlib.contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Suppress the loader's list of weights that no checkpoint has, and its warnings."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
