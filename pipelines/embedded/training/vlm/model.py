"""The embedded vision-language model: a small Qwen3-VL with its tokenizer and image settings, and its fast training form.

A frame of 48 x 48 becomes 64 patches of 6 x 6 and, merged two by two, 16 tokens of the language model. The tokenizer is a
byte-level BPE trained on the world's questions and answers: any text can be encoded, and each of the world's words is one piece.

For training, attention is written out in float32 (bfloat16's is several times slower on a CPU), and the vision
tower, which loops over images, takes all of them at once, since they have one size.

Shape letters: N images, P patches of an image, B sequences, S tokens, A heads, D width of a head.
"""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from workloads.world.scenes import SIZE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Qwen3VLForConditionalGeneration

VOCAB_SIZE = 512
MAX_LENGTH = 1024  # tokens of prompt, images and answer together
PATCH, MERGE = 6, 2
NUM_PATCHES = (SIZE // PATCH) ** 2
TOKENS_PER_IMAGE = NUM_PATCHES // MERGE**2

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
PAD_ID, START_ID, END_ID, VISION_START_ID, VISION_END_ID, IMAGE_ID, VIDEO_ID = range(len(SPECIALS))

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.content is string -%}
{{- message.content -}}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif part.type == 'text' -%}
{{- part.text -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""

# One frame has exactly the size that the model was trained on; larger pictures are scaled down to it with their aspect ratio.
IMAGE_SETTINGS: dict[str, Any] = {
    "patch_size": PATCH,
    "temporal_patch_size": 2,
    "merge_size": MERGE,
    "size": {"shortest_edge": SIZE * SIZE // 2, "longest_edge": SIZE * SIZE},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def build_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerBase:
    """Train the tokenizer on the texts; the same texts give the same tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*texts, *["user\n", "assistant\n", "system\n"] * 100], trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=SPECIALS[PAD_ID],
        eos_token=SPECIALS[END_ID],
        additional_special_tokens=list(SPECIALS),
        model_max_length=MAX_LENGTH,
        padding_side="left",
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def build_model() -> Qwen3VLForConditionalGeneration:
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    config = Qwen3VLConfig(
        vision_config={
            "depth": 3,
            "hidden_size": 96,
            "intermediate_size": 256,
            "num_heads": 3,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
            "out_hidden_size": 128,
            "num_position_embeddings": NUM_PATCHES,
            "deepstack_visual_indexes": [1],
            "initializer_range": 0.05,
        },
        text_config={
            "vocab_size": VOCAB_SIZE,
            "hidden_size": 128,
            "intermediate_size": 352,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "max_position_embeddings": MAX_LENGTH,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [6, 5, 5], "mrope_interleaved": True},
            "pad_token_id": PAD_ID,
            "initializer_range": 0.05,
        },
        image_token_id=IMAGE_ID,
        video_token_id=VIDEO_ID,
        vision_start_token_id=VISION_START_ID,
        vision_end_token_id=VISION_END_ID,
        tie_word_embeddings=True,
    )
    model = Qwen3VLForConditionalGeneration(config)
    with torch.no_grad():
        model.model.visual.pos_embed.weight.copy_(_waves(SIZE // PATCH, 96))
    model.generation_config.update(eos_token_id=END_ID, pad_token_id=PAD_ID, max_new_tokens=48)
    return model


def _waves(side: int, width: int) -> torch.Tensor:
    """Initial values of the position table: cosines of both coordinates, so that positions differ from the first step on."""
    place = (torch.arange(side) + 0.5) / side
    waves = torch.cos(torch.pi * place[:, None] * torch.arange(1, width // 2 + 1)[None] / 4)  # (side, width / 2)
    rows, columns = waves[:, None].expand(-1, side, -1), waves[None].expand(side, -1, -1)
    return 0.3 * torch.cat([rows, columns], -1).flatten(0, 1)


def patches(frames_NHWC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What the image processor makes of world frames: pixel values (N * P, values of a patch) and the grid (N, 3).

    frames_NHWC: uint8. Patches that are merged are adjacent; a patch holds channel, time (one frame twice), y, x.
    """
    n, side = len(frames_NHWC), SIZE // PATCH // MERGE
    x = frames_NHWC.float() / 255 * 2 - 1
    x = x.view(n, side, MERGE, PATCH, side, MERGE, PATCH, 3).permute(0, 1, 4, 2, 5, 7, 3, 6)
    x = x.unsqueeze(6).expand(-1, -1, -1, -1, -1, -1, 2, -1, -1).reshape(n * NUM_PATCHES, -1)
    return x, torch.tensor([[1, SIZE // PATCH, SIZE // PATCH]]).repeat(n, 1)


def use_training_attention(model: Qwen3VLForConditionalGeneration) -> Callable[[], None]:
    """Replace the model's attention by the fast one; all images must be world frames. The returned function restores the model's own."""
    vision = [block.attn for block in model.model.visual.blocks]
    text = [layer.self_attn for layer in model.model.language_model.layers]
    for module in vision:
        module.forward = types.MethodType(_vision_attention, module)
    for module in text:
        module.forward = types.MethodType(_text_attention, module)

    def restore() -> None:
        for module in (*vision, *text):
            del module.forward

    return restore


def _vision_attention(
    self: Any, hidden_states: torch.Tensor, position_embeddings: tuple[torch.Tensor, torch.Tensor], **_: Any
) -> torch.Tensor:
    qkv = self.qkv(hidden_states).float().view(-1, NUM_PATCHES, 3, self.num_heads, self.head_dim)
    q_NAPD, k_NAPD, v_NAPD = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    cos, sin = (x.view(-1, NUM_PATCHES, self.head_dim)[:1, None] for x in position_embeddings)
    out_NAPD = _attend(_rotate(q_NAPD, cos, sin) * self.scaling, _rotate(k_NAPD, cos, sin), v_NAPD, None)
    out: torch.Tensor = self.proj(out_NAPD.transpose(1, 2).flatten(2).flatten(0, 1))
    return out


def _text_attention(
    self: Any,
    hidden_states: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    attention_mask: torch.Tensor | None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    shape = (*hidden_states.shape[:-1], -1, self.head_dim)
    q_BASD = self.q_norm(self.q_proj(hidden_states).float().view(shape)).transpose(1, 2)
    k_BASD = self.k_norm(self.k_proj(hidden_states).float().view(shape)).transpose(1, 2)
    v_BASD = self.v_proj(hidden_states).float().view(shape).transpose(1, 2)
    cos, sin = (x[:, None] for x in position_embeddings)
    k_BASD, v_BASD = (x.repeat_interleave(self.num_key_value_groups, dim=1) for x in (_rotate(k_BASD, cos, sin), v_BASD))
    out_BASD = _attend(_rotate(q_BASD, cos, sin) * self.scaling, k_BASD, v_BASD, attention_mask)
    return self.o_proj(out_BASD.transpose(1, 2).flatten(2)), None


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    with torch.autocast("cpu", enabled=False):
        scores = q @ k.transpose(-1, -2)
        if mask is not None:
            scores = scores + mask
        return scores.softmax(-1) @ v


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    left, right = x.chunk(2, -1)
    return x * cos + torch.cat((-right, left), -1) * sin


def save(model: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write half-precision safetensors and the settings of a processor, in the layout of a Qwen3-VL checkpoint."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Qwen2VLImageProcessorPil(**IMAGE_SETTINGS).save_pretrained(folder)
    settings = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    images = settings | {"processor_class": "Qwen3VLProcessor"}
    videos = IMAGE_SETTINGS | {"video_processor_type": "Qwen3VLVideoProcessor", "processor_class": "Qwen3VLProcessor"}
    for name, value in (("preprocessor_config.json", images), ("video_preprocessor_config.json", videos)):
        (folder / name).write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
