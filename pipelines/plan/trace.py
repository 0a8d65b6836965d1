"""The cost of a forward pass, traced on the meta device: the real forward runs there on tensors that have shapes but no bytes.

FLOPs of products and convolutions are torch's own formulas (torch.utils.flop_counter). Attention is replaced and counted by its shape, 2
FLOPs for each multiply-add of scores and sums, since a fused kernel never stores the scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


@dataclass
class Cost:
    """The cost of one pass. flops: of products and convolutions. moved_bytes: read and written by these and attention, without weights.
    peak_bytes: of all tensors that live at the same time, without weights."""

    flops: float = 0.0
    attention_flops: float = 0.0
    moved_bytes: float = 0.0
    peak_bytes: int = 0


def cost(forward: Callable[[], object], weights: torch.nn.Module) -> Cost:
    """Run `forward`, all of whose tensors are on the meta device."""
    result = Cost()
    weights_storage = {p.untyped_storage()._cdata for p in (*weights.parameters(), *weights.buffers())}
    with torch.no_grad(), _Counter(result, weights_storage), _FusedAttention(result):
        forward()
    return result


@contextmanager
def on_meta() -> Iterator[None]:
    """Modules made here have shapes but no bytes, and are not initialised."""
    from diffusers.models.modeling_utils import no_init_weights as diffusers_no_init
    from transformers.initialization import no_init_weights

    with torch.device("meta"), no_init_weights(), diffusers_no_init():
        yield


class _Counter(TorchDispatchMode):
    """Counts operations, and the bytes of tensors while they live."""

    def __init__(self, result: Cost, weights_storage: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._cost, self._weights = result, weights_storage
        self._live: dict[int, tuple[Any, int]] = {}
        self._bytes = 0
        self._weak: Any = StorageWeakRef

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
        if (formula := flop_registry.get(func._overloadpacket)) is not None:
            self._cost.flops += formula(*args, **(kwargs or {}), out_val=out)
            for t in (*(t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)), *tensors):
                if t.untyped_storage()._cdata not in self._weights:
                    self._cost.moved_bytes += t.numel() * t.element_size()
        for t in tensors:
            self._count(t.untyped_storage())
        return out

    def _count(self, storage: Any) -> None:
        key = storage._cdata
        if key in self._weights or (key in self._live and not self._live[key][0].expired()):
            return
        self._bytes += storage.nbytes() - (self._live[key][1] if key in self._live else 0)
        self._live[key] = (self._weak(storage), storage.nbytes())
        if self._bytes > self._cost.peak_bytes:
            for gone in [k for k, (ref, _) in self._live.items() if ref.expired()]:
                self._bytes -= self._live.pop(gone)[1]
            self._cost.peak_bytes = max(self._cost.peak_bytes, self._bytes)


class _FusedAttention(TorchFunctionMode):
    """scaled_dot_product_attention on the meta device would store all scores."""

    def __init__(self, result: Cost) -> None:
        super().__init__()
        self._cost = result

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is not torch.nn.functional.scaled_dot_product_attention:
            return func(*args, **kwargs)
        query, key, value = (*args, *(kwargs[n] for n in ("query", "key", "value")[len(args) :]))[:3]
        out = query.new_empty((*query.shape[:-1], value.shape[-1]))
        self._cost.attention_flops += 2 * query.shape[:-1].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])
        self._cost.moved_bytes += sum(t.numel() * t.element_size() for t in (query, key, value, out))
        return out
