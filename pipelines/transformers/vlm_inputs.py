"""Images and prompts of a batch, made into a vision-language model's inputs.

The library's own processor is used where it can be built. Qwen-VL's cannot without torchvision (its video half needs it),
and torchvision has no build for every torch: there `QwenInputs` lays the prompt out itself around the library's PIL image
processor. The two were compared with torchvision 0.28.0 on PNGs of 48 x 48, 30 x 70, 200 x 100 and 3 x 500 pixels, one and
several a prompt: token ids, their kinds and grids are equal, and so are the pixels of images that are not resized. Those of
resized images differ by at most one grey level (tests/pipelines/transformers/test_vlm_inputs.py, skipped without torchvision).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from configs.errors import ConfigError, first_line
from pipelines.models.chat_prompts import default_template, image_messages
from pipelines.models.checkpoint import from_pretrained, load_problem

if TYPE_CHECKING:
    from PIL.Image import Image

QWEN_TYPES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")  # prompts that QwenInputs can lay out


class Row(NamedTuple):
    """One query of a batch: its place there, its prompt through the chat template, and its images."""

    place: int
    text: str
    images: list[Image]


class LibraryInputs:
    """Model inputs made by the checkpoint's own processor."""

    def __init__(self, processor: Any, template: str | None) -> None:
        self.processor, self.template = processor, template
        self.name = type(processor).__name__

    def render(self, prompt: str, num_images: int, system_prompt: str | None) -> str:
        messages = image_messages(prompt, num_images, system_prompt)
        return str(self.processor.apply_chat_template(messages, chat_template=self.template, add_generation_prompt=True, tokenize=False))

    def encode(self, rows: Sequence[Row]) -> dict[str, Any]:
        images = [row.images for row in rows] if any(row.images for row in rows) else None
        start = self.processor.tokenizer.bos_token
        has_start = bool(start) and rows[0].text.startswith(start)  # written by the template: the tokenizer must not add a second one
        options = {"add_special_tokens": False} if has_start else {}
        return dict(self.processor(text=[row.text for row in rows], images=images, padding=True, return_tensors="pt", **options))


class QwenInputs:
    """Model inputs for the Qwen-VL family, laid out here: the token of an image is repeated once for each of its merged patches."""

    def __init__(self, image_processor: Any, tokenizer: Any, image_id: int, template: str | None) -> None:
        self.image_processor, self.tokenizer, self.image_id, self.template = image_processor, tokenizer, image_id, template
        self.name = f"{type(image_processor).__name__}, prompts laid out by the suite"

    def render(self, prompt: str, num_images: int, system_prompt: str | None) -> str:
        messages = image_messages(prompt, num_images, system_prompt)
        return str(self.tokenizer.apply_chat_template(messages, chat_template=self.template, add_generation_prompt=True, tokenize=False))

    def encode(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Raises ValueError where a prompt has not as many image tokens as images, or an image cannot be used."""
        import torch

        images = [image for row in rows for image in row.images]
        encoded = dict(self.image_processor(images=images, return_tensors="pt")) if images else {}
        sizes = iter([int(grid.prod()) // self.image_processor.merge_size**2 for grid in encoded.get("image_grid_thw", ())])
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


Inputs = LibraryInputs | QwenInputs


def make_inputs(where: str, model: str, config: Any, tokenizer: Any, template: str | None, **options: Any) -> Inputs:
    """The inputs of a checkpoint. template: replaces its chat template. options: for every `from_pretrained`. Raises ConfigError."""
    from transformers import AutoImageProcessor, AutoProcessor, ProcessorMixin

    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    problem = "it has no processor_config.json"
    try:
        processor = AutoProcessor.from_pretrained(where, **options)
    except ImportError as error:
        processor, problem = None, first_line(error)
    except Exception as error:
        if config.model_type not in QWEN_TYPES:
            raise ConfigError(f"model {model!r}: its processor cannot be built: {load_problem(error, where)}") from error
        processor = None
    inputs: Inputs
    if isinstance(processor, ProcessorMixin) and hasattr(processor, "image_processor"):
        processor.tokenizer = tokenizer
        inputs = LibraryInputs(processor, template or default_template(processor) or default_template(tokenizer))
    elif config.model_type in QWEN_TYPES:
        image_processor = from_pretrained(AutoImageProcessor, where, model, **options)
        inputs = QwenInputs(image_processor, tokenizer, config.image_token_id, template or default_template(tokenizer))
    else:
        raise ConfigError(f"model {model!r}: its processor cannot be built: {problem}; install what it names in the build for your torch")
    if not inputs.template:
        raise ConfigError(f"model {model!r} has no chat template; put its chat_template.jinja beside it, or name one: chat_template: FILE")
    return inputs


def check_image_token(inputs: Inputs, config: Any, tokenizer: Any, system_prompt: str | None, model: str) -> None:
    """Raises ConfigError where a rendered prompt lacks the token that stands for an image."""
    image_id = getattr(config, "image_token_id", None)
    ids = tokenizer(inputs.render("a question", 1, system_prompt), add_special_tokens=False)["input_ids"]
    if image_id is not None and image_id not in ids:
        raise ConfigError(
            f"model {model!r}: its chat template and tokenizer never produce token {image_id}, which stands for an image; "
            "give the tokenizer and template that it was trained with"
        )


def encode(inputs: Inputs, rows: list[Row]) -> tuple[dict[str, Any], Mapping[int, str]]:
    """Encode all rows as one batch. Where that fails, rows that fail alone are removed from `rows`; returned with their errors by place."""
    errors: dict[int, str] = {}
    if not rows:
        return {}, errors
    try:
        return inputs.encode(rows), errors
    except Exception:  # some row is at fault: find out which
        for row in list(rows):
            try:
                inputs.encode([row])
            except Exception as error:
                errors[row.place] = first_line(error)
                rows.remove(row)
        return inputs.encode(rows) if rows else {}, errors
