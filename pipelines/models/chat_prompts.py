"""Prompts and images of samples, made into a model's inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import ConfigError, first_line

if TYPE_CHECKING:
    from PIL.Image import Image


def prompt_ids(tokenizer: Any, prompt: str | Sequence[Mapping[str, str]], chat: bool, system_prompt: str | None) -> list[int]:
    """Token ids of a prompt without images. chat: through the chat template, which adds the special tokens.

    prompt: a text, or a whole conversation, in which system_prompt is the system message where it has none of its own.
    """
    if not chat:
        return list(tokenizer(prompt, verbose=False)["input_ids"])
    messages: list[Mapping[str, str]] = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    if system_prompt and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system_prompt})
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def image_messages(prompt: str, num_images: int, system_prompt: str | None) -> list[dict[str, Any]]:
    """A chat with its images before its text, in the form that templates of vision-language models read."""
    system = [{"role": "system", "content": [{"type": "text", "text": system_prompt}]}] if system_prompt else []
    return [*system, {"role": "user", "content": [*[{"type": "image"}] * num_images, {"type": "text", "text": prompt}]}]


def default_template(holder: Any) -> str | None:
    """A tokenizer's or processor's chat template; where it has several by name, the one named `default`."""
    template = holder.chat_template
    default: str | None = template.get("default") if isinstance(template, Mapping) else template
    return default


def read_template(pipeline: str, file: str | None) -> str | None:
    """The chat template of option `chat_template`. Raises ConfigError where the file cannot be read."""
    if file is None:
        return None
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"pipeline {pipeline!r}: chat_template {file!r} cannot be read: {first_line(error)}") from None


def read_image(data: bytes, which: str) -> Image:
    """Raises ValueError where the bytes are not a whole image."""
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(BytesIO(data)).convert("RGB")
    except UnidentifiedImageError:
        raise ValueError(f"{which} is not an image ({len(data)} bytes that begin with {data[:8]!r})") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{which} cannot be read: {first_line(error)}") from None
