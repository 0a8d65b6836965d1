"""The share of a denoiser's work that is skipped, measured in its linear layers, whichever cache skips it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch


class DenoiserWork:
    """Counts the multiply-adds of every linear layer in each call of each denoiser.

    The call of a batch with the most is taken for the cost of a full call. Attention's own products are not counted; where attention is
    skipped, so are its four projections, which are. The counts are tensors on the device, so that counting neither synchronises with it nor
    breaks a compiled block.
    """

    def __init__(self, denoisers: Mapping[str, Any], device: torch.device) -> None:
        self._calls: dict[str, list[torch.Tensor]] = {name: [] for name in denoisers}
        for name, denoiser in denoisers.items():
            total = torch.zeros((), dtype=torch.int64, device=device)
            for module in denoiser.modules():
                if isinstance(module, torch.nn.Linear):
                    module.register_forward_hook(_count(total, module.in_features, module.out_features))
            denoiser.register_forward_hook(_record(total, self._calls[name]))

    def start(self) -> None:
        """Reset the counts for a batch."""
        for calls in self._calls.values():
            calls.clear()

    def skipped_shares(self) -> dict[str, float]:
        """The skipped share by denoiser, of those called in this batch, and of `all`: 0 where nothing is. Empty before the first batch."""
        full, done = {}, {}
        for name, calls in self._calls.items():
            if costs := [c for call in calls if (c := int(call))]:  # a guidance pass made by another rank costs nothing here
                full[name], done[name] = max(costs) * len(costs), sum(costs)
        if not full:
            return {}
        return {"all": 1 - sum(done.values()) / sum(full.values())} | {name: 1 - done[name] / full[name] for name in full}


def _count(total: torch.Tensor, in_features: int, out_features: int) -> Callable[..., None]:
    def add(_module: torch.nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        total.add_(output.numel() // out_features * in_features * out_features)

    return add


def _record(total: torch.Tensor, calls: list[torch.Tensor]) -> Callable[..., None]:
    def keep(*_: Any) -> None:
        calls.append(total.clone())
        total.zero_()

    return keep
