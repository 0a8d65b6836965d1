"""flash-attn's three functions without the package flash-attn, for transformers' continuous batching.

With `sdpa`, transformers needs an attention mask over all requests, and then does without CUDA graphs, asynchronous batching and its fast
path of decoding. It needs none with an implementation that has flash-attn's interface, such as these:

flash_torch_2    on a GPU: torch's own flash attention kernel for prompts, paged_decode.py for decoding. On a CPU the same in plain torch,
                 request by request: for tests, and to rehearse a run
flash_fa3_fwd_3  Hopper: prompts by the package fa3-fwd. Its build has no paged cache (FLASHATTENTION_DISABLE_PAGEDKV), so decoding is
                 paged_decode.py's here too

transformers takes a name with `flash` and 2 or 3 in it for one that can decode from a paged cache.

Letters: N tokens of all requests, B requests, H query heads, K key heads, D width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

TORCH, FA3 = "flash_torch_2", "flash_fa3_fwd_3"


def install() -> None:
    """Make both names known to transformers; can be called again."""
    from transformers import AttentionInterface, AttentionMaskInterface, modeling_flash_attention_utils
    from transformers.integrations.flash_attention import flash_attention_forward
    from transformers.masking_utils import flash_attention_mask

    module: Any = modeling_flash_attention_utils
    for name in (TORCH, FA3):
        AttentionInterface.register(name, flash_attention_forward)
        AttentionMaskInterface.register(name, flash_attention_mask)
    if getattr(module._lazy_imports, "knows_triptych", False):
        return
    known = module._lazy_imports

    def lazy_imports(implementation: str | None, *args: Any, **kwargs: Any) -> tuple[Callable[..., Any], ...]:
        if implementation not in (TORCH, FA3):
            return known(implementation, *args, **kwargs)  # type: ignore[no-any-return]
        varlen: Callable[..., Any] = flash_attn_varlen_func
        if implementation == FA3:
            import fa3_fwd_interface

            varlen = fa3_fwd_interface.flash_attn_varlen_func
        return flash_attn_func, varlen, flash_attn_with_kvcache, module._pad_input, module._unpad_input

    lazy_imports.knows_triptych = True  # type: ignore[attr-defined]
    module._lazy_imports = lazy_imports


def flash_attn_func(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, softmax_scale: float | None = None, causal: bool = False
) -> torch.Tensor:
    """q: (B, queries, H, D); k and v: (B, keys, K, D). Returns q's shape. The last query sees all keys."""
    mask = _last_sees_all(q.shape[1], k.shape[1], q.device) if causal and q.shape[1] not in (1, k.shape[1]) else None
    out = F.scaled_dot_product_attention(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        attn_mask=mask,
        is_causal=causal and mask is None and q.shape[1] > 1,
        scale=softmax_scale,
        enable_gqa=q.shape[2] != k.shape[2],
    )
    return out.transpose(1, 2)


def flash_attn_varlen_func(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    softmax_scale: float | None = None,
    causal: bool = False,
) -> torch.Tensor:
    """Requests side by side. q: (N, H, D); k and v: (their tokens, K, D); cu_seqlens: where each request begins, and the end, int32."""
    if q.device.type != "cpu":
        flash: Any = torch.ops.aten._flash_attention_forward
        ends = cu_seqlens_q, cu_seqlens_k, int(max_seqlen_q), int(max_seqlen_k)
        out: torch.Tensor = flash(q, k, v, *ends, 0.0, causal, False, scale=softmax_scale)[0]
        return out
    out = torch.zeros_like(q)  # tokens behind the last request are padding
    begins_q, begins_k = cu_seqlens_q.tolist(), cu_seqlens_k.tolist()
    for q0, q1, k0, k1 in zip(begins_q, begins_q[1:], begins_k, begins_k[1:], strict=False):
        if q1 > q0:
            out[q0:q1] = flash_attn_func(q[None, q0:q1], k[None, k0:k1], v[None, k0:k1], softmax_scale, causal)[0]
    return out


def flash_attn_with_kvcache(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cache_seqlens: torch.Tensor,
    block_table: torch.Tensor,
    softmax_scale: float | None = None,
    causal: bool = True,
) -> torch.Tensor:
    """Append one new token a request to the paged cache and attend to it; shapes as in paged_decode.py."""
    if q.device.type != "cpu":
        from pipelines.transformers.flash import paged_decode

        return paged_decode.flash_attn_with_kvcache(q, k_cache, v_cache, k, v, cache_seqlens, block_table, softmax_scale, causal)
    out, size = torch.zeros_like(q), k_cache.shape[1]
    for b, length in enumerate(cache_seqlens.tolist()):
        if length < 0:
            continue
        pages = block_table[b, : length // size + 1].long()
        k_cache[pages[-1], length % size], v_cache[pages[-1], length % size] = k[b, 0], v[b, 0]
        keys, values = (cache[pages].flatten(0, 1)[None, : length + 1] for cache in (k_cache, v_cache))
        out[b : b + 1] = flash_attn_func(q[b : b + 1], keys, values, softmax_scale)
    return out


def _last_sees_all(num_queries: int, num_keys: int, device: torch.device) -> torch.Tensor:
    return torch.ones(num_queries, num_keys, dtype=torch.bool, device=device).tril(num_keys - num_queries)
