"""The embedded language models: a dense Llama and a gpt-oss mixture of experts, with the tokenizer both share.

The tokenizer is a byte-level BPE of 768 pieces, with at most two digits a piece, trained on the world's own texts: any text can be
encoded, and each of the world's words is one piece. A chat is one user turn and one assistant turn, each closed by <|end|>; a system
turn may precede them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import GptOssForCausalLM, LlamaForCausalLM, PreTrainedTokenizerFast

VOCAB_SIZE = 768
MAX_LENGTH = 512  # tokens of prompt and answer together
PAD, START, END = "<|pad|>", "<|start|>", "<|end|>"
PAD_ID, START_ID, END_ID = 0, 1, 2

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|start|>' + message['role'] + ':' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant:' }}{% endif %}"
)


def build_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Train the tokenizer on the texts; the same texts give the same tokenizer."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?\d{1,2}| ?[^\s\d\w]+| ?[^\W\d]+|\s"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[PAD, START, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*texts, "user: assistant: system:"], trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, bos_token=START, eos_token=END, model_max_length=MAX_LENGTH, padding_side="left"
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def build_llama() -> LlamaForCausalLM:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=160,
            intermediate_size=448,
            num_hidden_layers=4,
            num_attention_heads=5,
            num_key_value_heads=5,
            head_dim=32,
            max_position_embeddings=MAX_LENGTH,
            tie_word_embeddings=True,
            pad_token_id=PAD_ID,
            bos_token_id=START_ID,
            eos_token_id=END_ID,
        )
    )


def build_gpt_oss() -> GptOssForCausalLM:
    """gpt-oss's own parts: attention sinks, every other layer a sliding window, four experts of which two run for a token."""
    from transformers import GptOssConfig, GptOssForCausalLM

    return GptOssForCausalLM(
        GptOssConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=128,
            intermediate_size=160,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            num_local_experts=4,
            num_experts_per_tok=2,
            sliding_window=64,
            max_position_embeddings=MAX_LENGTH,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            tie_word_embeddings=True,
            router_aux_loss_coef=0.01,
            pad_token_id=PAD_ID,
            bos_token_id=START_ID,
            eos_token_id=END_ID,
        )
    )


BUILDERS = {"dense": build_llama, "moe": build_gpt_oss}
