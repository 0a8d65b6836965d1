"""The embedded model's text side: a word tokenizer for the world's captions and a small UMT5 encoder.

The vocabulary is the words of the caption grammar, then single letters, so that other words are spelled and not
lost. Before the denoiser's training the encoder is trained alone: at every word, to predict the attributes of the object
that the word belongs to. That takes a minute, and the denoiser need not learn the language from noisy latents.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from pipelines.embedded.training.common import Progress, cosine, descend, set_rate
from workloads.world.scenes import BACKGROUNDS, COLOURS, DIRECTIONS, SHAPES, SPEEDS, parse_caption, vocabulary

if TYPE_CHECKING:
    from transformers import T5Tokenizer, UMT5EncoderModel

TEXT_DIM = 64
MAX_TOKENS = 512  # the length that WanPipeline pads to by default
GRAMMAR_STEPS, GRAMMAR_BATCH, GRAMMAR_RATE = 600, 192, 3e-3

_ATTRIBUTES: dict[str, list[object]] = {
    "colour": list(COLOURS),
    "shape": list(SHAPES),
    "direction": list(DIRECTIONS),
    "speed": list(SPEEDS),
    "count": [1, 2, 3],
    "background": [None, *BACKGROUNDS],
    "group": [0, 1],
}


def build_tokenizer() -> T5Tokenizer:
    from transformers import T5Tokenizer

    words = [(f"\N{LOWER ONE EIGHTH BLOCK}{w}", -1.0) for w in vocabulary()]
    taken = {w for w, _ in words}
    letters = [(c, -9.0) for c in ("\N{LOWER ONE EIGHTH BLOCK}", *string.ascii_letters, *string.digits, ".", ",") if c not in taken]
    specials = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0)]
    return T5Tokenizer(vocab=[*specials, *words, *letters], extra_ids=0, model_max_length=MAX_TOKENS)


def build_text_encoder(tokenizer: T5Tokenizer) -> UMT5EncoderModel:
    from transformers import UMT5Config, UMT5EncoderModel

    config = UMT5Config(
        vocab_size=-(-len(tokenizer) // 32) * 32,
        d_model=TEXT_DIM,
        d_kv=16,
        num_heads=4,
        d_ff=160,
        num_layers=3,
        relative_attention_num_buckets=16,
        relative_attention_max_distance=32,
        dropout_rate=0.0,
    )
    return UMT5EncoderModel(config)


def tokenize(tokenizer: T5Tokenizer, captions: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask, each (n, longest + 1): there is always a place of padding."""
    batch = tokenizer(list(captions), padding=True, return_tensors="pt")
    ids = torch.nn.functional.pad(batch["input_ids"], (0, 1), value=0)
    return ids, torch.nn.functional.pad(batch["attention_mask"], (0, 1), value=0)


def teach_grammar(text_encoder: UMT5EncoderModel, ids: torch.Tensor, mask: torch.Tensor, captions: Sequence[str], seed: int) -> None:
    """Train the encoder so that linear readers predict, at every word, its object's attributes."""
    heads = torch.nn.ModuleDict({name: torch.nn.Linear(TEXT_DIM, len(values)) for name, values in _ATTRIBUTES.items()})
    labels = {name: torch.zeros_like(ids) for name in _ATTRIBUTES}
    for row, text in enumerate(captions):
        for name, values in _word_labels(text, ids.shape[1]).items():
            labels[name][row] = torch.tensor(values)
    parameters = [*text_encoder.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=GRAMMAR_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    generator = torch.Generator().manual_seed(seed)
    progress = Progress("grammar", GRAMMAR_STEPS)
    while progress.step < GRAMMAR_STEPS:
        set_rate(optimiser, cosine(progress.step, GRAMMAR_STEPS, GRAMMAR_RATE, warmup=50))
        index = torch.randint(len(ids), (GRAMMAR_BATCH,), generator=generator)
        real = mask[index].bool()
        words = text_encoder(ids[index], mask[index]).last_hidden_state[real]
        losses = [torch.nn.functional.cross_entropy(heads[name](words), labels[name][index][real]) for name in _ATTRIBUTES]
        loss = torch.stack(losses).mean()
        descend(loss, parameters, optimiser)
        progress.advance(loss=loss.item())


def _word_labels(text: str, length: int) -> dict[str, list[int]]:
    """For each place of the tokenized caption, the index of each attribute of the object its word belongs to."""
    scene = parse_caption(text)
    words = text.split()
    join = next((i for i, w in enumerate(words) if w in ("while", "and")), len(words))
    owners = [int(i >= join and i < len(words)) for i in range(length)]  # the closing </s> goes with the first
    facts = [
        {
            "colour": g.colour,
            "shape": g.shape,
            "direction": g.direction,
            "speed": g.speed,
            "count": g.count,
            "background": scene.background,
            "group": i,
        }
        for i, g in enumerate(scene.groups)
    ]
    return {name: [values.index(facts[owner][name]) for owner in owners] for name, values in _ATTRIBUTES.items()}
