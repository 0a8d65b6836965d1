"""A tokenizer for models with random weights, made in memory: every byte is a token, so any text can be encoded."""

from __future__ import annotations

from typing import Any

SPECIAL = ("<pad>", "<start>", "<end>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
VISION = SPECIAL[3:]  # tokens whose ids a vision-language model needs
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {% if m['content'] is string %}{{ m['content'] }}{% else %}{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endif %}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


def byte_tokenizer(vocabulary: int) -> Any:
    """A transformers tokenizer with exactly the ids below `vocabulary`: special tokens, bytes, and words for the rest.

    No prompt is encoded into these words; they exist because a random network generates them.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*SPECIAL, *alphabet]
    if vocabulary < len(tokens):
        raise ValueError(f"a vocabulary of {vocabulary} is too small for {len(tokens)} bytes and special tokens")
    space = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(" ")[0][0]
    tokens += [f"{space}w{i}" for i in range(vocabulary - len(tokens))]
    made = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    pad, start, end = SPECIAL[:3]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, pad_token=pad, bos_token=start, eos_token=end)
    tokenizer.chat_template = TEMPLATE
    return tokenizer
