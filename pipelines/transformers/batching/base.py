"""What both kinds of batching share: a request, the paged cache's size, and how steps are brought to a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Request:
    """Token ids of a prompt, and the largest number of tokens of its answer. seed: None for greedy decoding.

    The rest is for an engine of the server alone: min_new_tokens and ignore_eos as in QueryOptions, temperature, top_p and top_k of what
    is sampled.
    """

    query_id: int
    ids: Sequence[int]
    max_new_tokens: int
    seed: int | None = None
    min_new_tokens: int = 0
    ignore_eos: bool = False
    temperature: float = 1.0
    top_p: float | None = None
    top_k: int | None = None


@dataclass(frozen=True, slots=True)
class Cache:
    """The size of a paged cache: num_blocks of page_size tokens each. max_batch_tokens: processed in one step at most.

    num_blocks: None for as many as free memory holds. context: tokens of the longest request.
    """

    page_size: int
    num_blocks: int | None
    max_batch_tokens: int
    context: int


@dataclass(frozen=True, slots=True)
class Device:
    """How steps are brought to a GPU; None leaves it to transformers. On a CPU there are no graphs, and steps do not overlap.

    use_cuda_graph: replay decoding steps, captured for 1, 2, 4, 8 .. batch_size requests. use_async_batching: prepare a step while
    the one before it runs. default_compile_level: 0 to 3, as in transformers' ContinuousBatchingConfig.
    """

    use_cuda_graph: bool | None = None
    use_async_batching: bool | None = None
    default_compile_level: int = 0


def token_bytes(model: Any) -> int:
    """Bytes of keys and values that one token takes in all layers, on this rank."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    shares = getattr(model, "_tp_size", None) or 1
    return int(2 * config.num_hidden_layers * heads * width * model.dtype.itemsize // shares)
