"""How much of a denoiser's work is really done, counted in its linear layers, so that any kind of skipping shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch


class DenoiserWork:
    """Counts the multiply-adds of every linear layer in each call of each denoiser; the fullest call of a batch is what a call
    costs. Attention's own products are not counted: where it is skipped, its four projections are.

    The counts are tensors on the device, so that counting neither waits for it nor breaks a compiled block.
    """

    def __init__(self, denoisers: Mapping[str, Any], device: torch.device) -> None:
        self._calls: dict[str, list[torch.Tensor]] = {name: [] for name in denoisers}
        for name, denoiser in denoisers.items():
            total = torch.zeros((), dtype=torch.int64, device=device)
            for module in denoiser.modules():
                if isinstance(module, torch.nn.Linear):
                    module.register_forward_hook(_adder(total, module.in_features, module.out_features))
            denoiser.register_forward_hook(_keeper(total, self._calls[name]))

    def start(self) -> None:
        """Begin a batch."""
        for calls in self._calls.values():
            calls.clear()

    def skipped_shares(self) -> dict[str, float]:
        """Of each denoiser that was called in this batch, and `all` of them: 0 is nothing skipped. Empty before the first batch."""
        due, done = {}, {}
        for name, calls in self._calls.items():
            if costs := [c for call in calls if (c := int(call))]:  # a guidance pass that another rank makes costs nothing here
                due[name], done[name] = max(costs) * len(costs), sum(costs)
        if not due:
            return {}
        return {"all": 1 - sum(done.values()) / sum(due.values())} | {name: 1 - done[name] / due[name] for name in due}


def _adder(total: torch.Tensor, in_features: int, out_features: int) -> Callable[..., None]:
    def add(_module: torch.nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        total.add_(output.numel() // out_features * in_features * out_features)

    return add


def _keeper(total: torch.Tensor, calls: list[torch.Tensor]) -> Callable[..., None]:
    def keep(*_: Any) -> None:
        calls.append(total.clone())
        total.zero_()

    return keep
