"""Attention of a paged batch, request by request, for CPUs, which have no flash attention kernel.

transformers' `sdpa` path puts the keys of all requests side by side and masks those of other requests: with N requests, N times the
necessary work. Here each request attends only to its own keys. The result is the same.

Letters: H heads, Q queries of all requests, K keys of all requests, D width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

NAME = "sdpa_by_request"


def fits(model: Any) -> bool:
    """Whether the model can use it: on a CPU, with `sdpa`, and without a sliding window."""
    config = model.config.get_text_config()
    plain = set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
    return model.device.type == "cpu" and model.config._attn_implementation == "sdpa" and plain


def use(model: Any) -> None:
    """Make the model use it. Call this after the continuous batching manager is made, which accepts only `sdpa`, and before it starts."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)
    model.config._attn_implementation = NAME


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    cache: Any = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """An attention function of transformers: query (1, H, Q, D), key and value of the new tokens; returns (1, Q, H, D)."""
    key, value = cache.update(key_states=key, value_states=value, layer_idx=module.layer_idx, kwargs=kwargs)
    q_ends, k_ends = kwargs["cu_seq_lens_q"].tolist(), kwargs["cu_seq_lens_k"].tolist()
    gqa = query.shape[1] != key.shape[1]
    out = torch.empty_like(query)
    for q0, q1, k0, k1 in zip(q_ends, q_ends[1:], k_ends, k_ends[1:], strict=False):
        num_q, num_k = q1 - q0, k1 - k0
        mask = None if num_q == 1 else torch.ones(num_q, num_k, dtype=torch.bool).tril(num_k - num_q)  # the last query sees all keys
        out[:, :, q0:q1] = F.scaled_dot_product_attention(
            query[:, :, q0:q1], key[:, :, k0:k1], value[:, :, k0:k1], attn_mask=mask, scale=scaling, enable_gqa=gqa
        )
    return out.transpose(1, 2).contiguous(), None
