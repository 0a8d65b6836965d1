"""Attention of decoding over a paged key-value cache, as two Triton kernels: flash decoding without a mask.

One query a request. Keys are split, so that few requests with long contexts still occupy the whole device; a second kernel merges the
parts (Dao et al., Flash-Decoding, 2023). Grids and shapes depend on the batch alone, never on the requests' lengths, so that the calls can
be captured in a CUDA graph. Triton comes with torch for CUDA and ROCm.

Letters: B requests, H query heads, K key heads, G = H / K query heads that share a key head, D width of a head, P pages, T tokens a page,
S parts that the keys are split into.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl

BLOCK_KEYS = 64  # keys read at once by a program: the registers of one program hold as many keys and values of 128 values each
MIN_ROWS = 16  # of a matrix product on tensor cores
PROGRAMS_A_PROCESSOR = 2  # enough to hide the latency of memory
MAX_PARTS = 64
LOG2_E = 1.4426950408889634


@triton.jit
def _append(
    key,
    value,
    keys,
    values,
    table,
    lengths,
    key_b,
    key_h,
    page_p,
    page_t,
    page_h,
    table_b,
    T: tl.constexpr,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Write each request's new key and value behind those that the cache has of it. A negative length marks a row of padding."""
    request, head = tl.program_id(0), tl.program_id(1)
    length = tl.load(lengths + request)
    if length >= 0:
        page = tl.load(table + request * table_b + length // T).to(tl.int64)
        d = tl.arange(0, WIDTH)
        place = page * page_p + (length % T) * page_t + head * page_h + d
        source = request * key_b + head * key_h + d
        tl.store(keys + place, tl.load(key + source, mask=d < D), mask=d < D)
        tl.store(values + place, tl.load(value + source, mask=d < D), mask=d < D)


@triton.jit
def _attend(
    query, keys, values, table, lengths, part_out, part_lse, scale, query_b, query_h, page_p, page_t, page_h, table_b, G, parts,
    T: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """One part of the keys of one request and key head, for the G query heads that share it: output and log2 of the sum of exponentials."""
    request, head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    num_keys = tl.load(lengths + request) + 1
    size = tl.cdiv(tl.cdiv(num_keys, parts), KEYS) * KEYS
    begin, end = part * size, tl.minimum(part * size + size, num_keys)
    g, d = tl.arange(0, ROWS), tl.arange(0, WIDTH)
    inside = (g < G)[:, None] & (d < D)[None, :]
    q = tl.load(query + request * query_b + (head * G + g)[:, None] * query_h + d[None, :], mask=inside, other=0.0)
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    out = tl.zeros([ROWS, WIDTH], tl.float32)
    for first in range(begin, end, KEYS):
        j = first + tl.arange(0, KEYS)
        page = tl.load(table + request * table_b + j // T, mask=j < end, other=0).to(tl.int64)
        place = page * page_p + (j % T) * page_t + head * page_h
        k = tl.load(keys + place[None, :] + d[:, None], mask=(j < end)[None, :] & (d < D)[:, None], other=0.0)
        scores = tl.dot(q, k, input_precision="ieee") * scale
        scores = tl.where((j < end)[None, :], scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 1))
        shrink = tl.exp2(top - new_top)
        weights = tl.exp2(scores - new_top[:, None])
        v = tl.load(values + place[:, None] + d[None, :], mask=(j < end)[:, None] & (d < D)[None, :], other=0.0)
        total = total * shrink + tl.sum(weights, 1)
        out = out * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        top = new_top
    row = (request * tl.num_programs(1) + head) * G + g
    lse = tl.where(total > 0, top + tl.log2(total), float("-inf"))
    tl.store(part_lse + row * parts + part, lse, mask=g < G)
    out = out / tl.where(total > 0, total, 1.0)[:, None]
    tl.store(part_out + ((row * parts + part) * D)[:, None] + d[None, :], out, mask=inside)


@triton.jit
def _merge(part_out, part_lse, out, parts, D: tl.constexpr, WIDTH: tl.constexpr, PARTS: tl.constexpr):
    """Weigh the parts of one request and query head by their sums. Zero where there are no keys: a row of padding."""
    row = tl.program_id(0)
    s, d = tl.arange(0, PARTS), tl.arange(0, WIDTH)
    lse = tl.load(part_lse + row * parts + s, mask=s < parts, other=float("-inf"))
    top = tl.max(lse, 0)
    weights = tl.exp2(lse - tl.where(top == float("-inf"), 0.0, top))
    inside = (s < parts)[:, None] & (d < D)[None, :]
    each = tl.load(part_out + ((row * parts + s) * D)[:, None] + d[None, :], mask=inside, other=0.0)
    total = tl.sum(weights, 0)
    merged = tl.sum(each * weights[:, None], 0) / tl.where(total > 0, total, 1.0)
    tl.store(out + row * D + d, merged.to(out.dtype.element_ty), mask=d < D)


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
    """Append k and v to the cache and attend to it: flash-attn's function of this name, for one new token a request.

    q: (B, 1, H, D). k, v: (B, 1, K, D). k_cache, v_cache: (P, T, K, D), the same strides. cache_seqlens: (B,) int32, tokens in the cache
    before this one; negative for rows of padding, whose output is zero. block_table: (B, pages a request) int32. Returns (B, 1, H, D).
    """
    count, _, heads, width = q.shape
    pages_T, key_heads = k_cache.shape[1], k_cache.shape[2]
    q, k, v = q.reshape(count, heads, width), k.reshape(count, key_heads, width), v.reshape(count, key_heads, width).contiguous()
    k, lengths = k.contiguous(), cache_seqlens.to(torch.int32)
    group, padded = heads // key_heads, triton.next_power_of_2(width)
    parts = num_parts(count * key_heads, block_table.shape[1] * pages_T, _num_processors(q.device))
    pages = (k_cache.stride(0), k_cache.stride(1), k_cache.stride(2))
    _append[(count, key_heads)](
        k,
        v,
        k_cache,
        v_cache,
        block_table,
        lengths,
        k.stride(0),
        k.stride(1),
        *pages,
        block_table.stride(0),
        T=pages_T,
        D=width,
        WIDTH=padded,
    )
    part_out = torch.empty(count * heads, parts, width, dtype=torch.float32, device=q.device)
    part_lse = torch.empty(count * heads, parts, dtype=torch.float32, device=q.device)
    out = torch.empty(count, 1, heads, width, dtype=q.dtype, device=q.device)
    scale = (1 / math.sqrt(width) if softmax_scale is None else softmax_scale) * LOG2_E
    rows = max(MIN_ROWS, triton.next_power_of_2(group))
    _attend[(count, key_heads, parts)](
        q, k_cache, v_cache, block_table, lengths, part_out, part_lse, scale, q.stride(0), q.stride(1), *pages, block_table.stride(0),
        group, parts, T=pages_T, D=width, ROWS=rows, WIDTH=padded, KEYS=BLOCK_KEYS,
    )  # fmt: skip
    _merge[(count * heads,)](part_out, part_lse, out, parts, D=width, WIDTH=padded, PARTS=triton.next_power_of_2(parts))
    return out


def num_parts(num_programs: int, max_keys: int, num_processors: int) -> int:
    """Into how many parts the keys are split, so that all processors have work; never into more than there are blocks of keys."""
    wanted = -(-PROGRAMS_A_PROCESSOR * num_processors // num_programs)
    return max(1, min(wanted, -(-max_keys // BLOCK_KEYS), MAX_PARTS))


def _num_processors(device: torch.device) -> int:
    properties: Any = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    return int(properties.multi_processor_count) if properties else 4
