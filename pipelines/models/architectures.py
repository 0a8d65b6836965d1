"""Published architectures by name (configs/architectures), and smaller versions of them for machines without the memory.

`shrink` keeps the classes, the kinds of layers and the dimension of a head, so that rotary positions are those of the published
model. It changes only counts and widths:
layers      the number of layers of the language model, the text encoder and each denoiser, counted from the first. The vision tower has
            at most as many, and hands as many of them to the language model as both have (deepstack). The kinds of layers keep their
            order; a model whose first layers are dense keeps at least one layer with experts
width       a factor such as 1/16 or 0.0625, by which heads and hidden sizes are multiplied; the results must be whole numbers. Heads of
            keys and values keep their published ratio to those of queries, at least one. Rounded up to whole numbers: the widths inside
            feed-forward layers, the ranks of latent attention, a text encoder's sizes; to a multiple of 8: a VAE's channels
experts     the number of experts; at most half of them run for a token, and each group that they are selected by has two or more
vocabulary  the number of tokens
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec

from configs.decode import FORM, reading
from configs.errors import ConfigError, unknown
from configs.load_config import CONFIGS

ARCHITECTURES = CONFIGS / "architectures"
MIN_VOCABULARY = 300  # 256 bytes and the special tokens of a chat
MATCHED = ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_local_experts", "num_experts", "n_routed_experts")


def names() -> list[str]:
    return sorted(path.name for path in ARCHITECTURES.iterdir() if path.is_dir())


def folder_of(name: str) -> Path:
    """The folder of a published architecture, or `name` itself where that is such a folder. Raises ConfigError where it is neither."""
    if name in names():
        return ARCHITECTURES / name
    path = Path(name)
    if (path / "config.json").is_file() or (path / "model_index.json").is_file():
        return path
    raise ConfigError(unknown("architecture", name, names()) + "; a folder with a config.json or a model_index.json can be named too")


@dataclass(frozen=True)
class Shrink:
    """The factors of option `shrink`; None keeps what is published."""

    layers: int | None = None
    width: Fraction | None = None
    experts: int | None = None
    vocabulary: int | None = None

    @classmethod
    def parse(cls, values: Mapping[str, Any] | None) -> Shrink:
        """Raises ConfigError naming the factor."""
        factors: dict[str, Any] = {}
        for name, value in (values or {}).items():
            if name not in (known := [f.name for f in fields(cls)]):
                raise ConfigError(f"option 'shrink' has an {unknown('factor', name, known)}")
            factors[name] = _width(value) if name == "width" else _count(name, value)
        return cls(**factors)

    def __str__(self) -> str:
        parts = [f"{f.name} {getattr(self, f.name)}" for f in fields(self) if getattr(self, f.name) is not None]
        return ", ".join(parts) or "none"


def read(folder: Path, part: str = "config.json") -> dict[str, Any]:
    with reading(f"architecture {str(folder)!r}: {part}"):
        values = json.loads((folder / part).read_text(encoding="utf-8"))  # not msgspec: configurations may hold NaN and Infinity
        return msgspec.convert(values, dict[str, Any])


def transformers_values(folder: Path, shrink: Shrink) -> dict[str, Any]:
    """The values of config.json of a language or vision-language model, shrunk."""
    values = read(folder)
    with reading(f"architecture {folder.name!r}: config.json", also=FORM):
        text = values.get("text_config", values)
        _shrink_language(text, shrink)
        if "vision_config" in values:
            _shrink_vision(values["vision_config"], text, shrink)
        elif "text_config" not in values and shrink.width and "hidden_size" not in text:
            raise ConfigError(f"architecture {folder.name!r} is a {values.get('model_type')!r}, whose sizes 'shrink' cannot change")
    return values


def diffusers_values(folder: Path, shrink: Shrink) -> dict[str, dict[str, Any]]:
    """The configuration of each part of a Wan by name, shrunk. Raises ConfigError where shrink cannot change a part's sizes."""
    parts: dict[str, dict[str, Any]] = {}
    with reading(f"architecture {folder.name!r}: its configuration", also=FORM):
        for name, entry in read(folder, "model_index.json").items():
            if not isinstance(entry, list) or entry[0] is None or name == "tokenizer":
                continue
            parts[name] = read(folder, f"{name}/{'scheduler_config.json' if name == 'scheduler' else 'config.json'}")
        if shrink != Shrink():
            if parts.get("text_encoder", {}).get("model_type") != "umt5" or "transformer" not in parts:
                raise ConfigError(f"architecture {folder.name!r}: 'shrink' supports Wan models only")
            if shrink.experts:
                raise ConfigError(
                    f"architecture {folder.name!r}: shrink.experts is {shrink.experts}, but its layers have no experts; leave it out"
                )
            _shrink_encoder(parts["text_encoder"], shrink)
            for name in ("transformer", "transformer_2"):
                if name in parts:
                    _layers(parts[name], "num_layers", shrink)
                    if shrink.width:
                        _whole(parts[name], "num_attention_heads", shrink.width)
                        _rounded(parts[name], "ffn_dim", shrink.width)
                    parts[name]["text_dim"] = parts["text_encoder"]["d_model"]
            if shrink.width and "base_dim" in parts.get("vae", {}):
                parts["vae"]["base_dim"] = 8 * math.ceil(parts["vae"]["base_dim"] * shrink.width / 8)
    return parts


def check_match(config: Any, name: str, model: str) -> None:
    """Compare a checkpoint's configuration with the published one of this name. Raises ConfigError naming what differs."""
    values = read(folder_of(name))
    published = values.get("text_config", values)
    text = config.get_text_config()
    for key in MATCHED[1:]:
        if key in published and getattr(text, key, published[key]) != published[key]:
            raise ConfigError(
                f"model {model!r} is not of architecture {name!r}: its {key} is {getattr(text, key)}, not {published[key]}; "
                "give the right one, or leave 'architecture' out"
            )
    if config.model_type != values["model_type"]:
        raise ConfigError(f"model {model!r} is not of architecture {name!r}: it is a {config.model_type!r}, not a {values['model_type']!r}")


def check_denoiser_match(pipe: Any, name: str, model: str) -> None:
    """Compare the denoisers of a diffusers pipeline with those of the architecture. Raises ConfigError naming what differs."""
    folder = folder_of(name)
    for part in ("transformer", "transformer_2"):
        if not (folder / part).is_dir():
            continue
        denoiser, published = getattr(pipe, part, None), read(folder, f"{part}/config.json")
        if denoiser is None:
            raise ConfigError(f"model {model!r} is not of architecture {name!r}: it has no {part}")
        for key, value in published.items():
            if (
                key in ("num_layers", "num_attention_heads", "attention_head_dim", "ffn_dim", "in_channels")
                and denoiser.config.get(key) != value
            ):
                raise ConfigError(
                    f"model {model!r} is not of architecture {name!r}: {part}.{key} is {denoiser.config.get(key)}, not {value}"
                )


def _shrink_language(values: dict[str, Any], shrink: Shrink) -> None:
    _layers(values, "num_hidden_layers", shrink)
    if shrink.layers:
        if "layer_types" in values:
            values["layer_types"] = values["layer_types"][: shrink.layers]
        if "first_k_dense_replace" in values:
            values["first_k_dense_replace"] = min(values["first_k_dense_replace"], shrink.layers - 1)
    if shrink.width:
        heads, kv_heads = values["num_attention_heads"], values.get("num_key_value_heads")
        if "qk_rope_head_dim" not in values:
            values.setdefault("head_dim", values["hidden_size"] // heads)
        for name in ("hidden_size", "num_attention_heads"):
            _whole(values, name, shrink.width)
        if kv_heads:
            values["num_key_value_heads"] = max(1, values["num_attention_heads"] * kv_heads // heads)
        for name in ("intermediate_size", "moe_intermediate_size", "q_lora_rank", "kv_lora_rank"):
            _rounded(values, name, shrink.width)
    if shrink.experts:
        _experts(values, shrink.experts)
    _vocabulary(values, shrink)


def _shrink_vision(values: dict[str, Any], text: Mapping[str, Any], shrink: Shrink) -> None:
    if shrink.layers:
        values["depth"] = depth = min(values["depth"], shrink.layers)
        count = min(len(values["deepstack_visual_indexes"]), depth)
        values["deepstack_visual_indexes"] = [(i + 1) * depth // (count + 1) for i in range(count)]
    if shrink.width:
        for name in ("hidden_size", "num_heads"):
            _whole(values, name, shrink.width)
        _rounded(values, "intermediate_size", shrink.width)
        values["out_hidden_size"] = text["hidden_size"]


def _shrink_encoder(values: dict[str, Any], shrink: Shrink) -> None:
    _layers(values, "num_layers", shrink)
    values["num_decoder_layers"] = values["num_layers"]
    if shrink.width:
        for name in ("d_model", "d_ff", "num_heads"):
            _rounded(values, name, shrink.width)
    _vocabulary(values, shrink)


def _layers(values: dict[str, Any], name: str, shrink: Shrink) -> None:
    if shrink.layers:
        if shrink.layers > values[name]:
            raise ConfigError(f"shrink.layers is {shrink.layers}, but {name} is {values[name]} as published; give at most that many")
        if shrink.layers < 2 and values.get("first_k_dense_replace"):
            raise ConfigError(f"shrink.layers is {shrink.layers}; this model needs at least 2, one dense and one with experts")
        values[name] = shrink.layers


def _experts(values: dict[str, Any], experts: int) -> None:
    name = next((n for n in ("num_local_experts", "num_experts", "n_routed_experts") if n in values), None)
    if name is None:
        raise ConfigError(f"shrink.experts is {experts}, but this architecture has none; leave it out")
    if not 2 <= experts <= values[name]:
        raise ConfigError(f"shrink.experts is {experts}; it must be from 2 to {values[name]}, the published number")
    values[name] = experts
    for key in ("num_experts_per_tok", "experts_per_token"):
        if key in values:
            values[key] = min(values[key], experts // 2)
    if "n_group" in values:
        fitting = [g for g in range(1, values["n_group"] + 1) if experts % g == 0 and experts // g >= 2]
        values["n_group"] = max(fitting, default=1)
        values["topk_group"] = max(1, min(values["topk_group"], values["n_group"] // 2))
        values["num_experts_per_tok"] = min(values["num_experts_per_tok"], values["topk_group"] * experts // values["n_group"])


def _vocabulary(values: dict[str, Any], shrink: Shrink) -> None:
    if shrink.vocabulary:
        if not MIN_VOCABULARY <= shrink.vocabulary <= values["vocab_size"]:
            raise ConfigError(
                f"shrink.vocabulary is {shrink.vocabulary}; it must be from {MIN_VOCABULARY} to {values['vocab_size']}, the published one"
            )
        values["vocab_size"] = shrink.vocabulary


def _whole(values: dict[str, Any], name: str, width: Fraction) -> None:
    size = values[name] * width
    if size.denominator != 1:
        divisor = math.gcd(values[name], width.denominator)
        raise ConfigError(
            f"shrink.width is {width}, which leaves {float(size):g} of {name} = {values[name]}; give a fraction that divides it"
            + (f", such as 1/{divisor}" if divisor > 1 else "")
        )
    values[name] = int(size)


def _rounded(values: dict[str, Any], name: str, width: Fraction) -> None:
    if values.get(name):
        values[name] = math.ceil(values[name] * width)


def _width(value: object) -> Fraction:
    try:
        width = Fraction(str(value)).limit_denominator(1024)
    except (ValueError, ZeroDivisionError):
        width = Fraction(0)
    if not 0 < width <= 1:
        raise ConfigError(f"shrink.width is {value!r}; give a fraction above 0 and at most 1, such as 1/16")
    return width


def _count(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"shrink.{name} is {value!r}; give a positive whole number")
    return value
