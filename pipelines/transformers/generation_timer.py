"""Observes one call of `generate`: when the first token was ready, and whether all logits were finite.

Letters: B queries of a batch, V vocabulary.
"""

from __future__ import annotations

import time

import torch


class GenerationTimer:
    """Pass `watch` to `generate` as a logits processor: it is called at every step and changes nothing."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._sum_B: torch.Tensor | None = None
        self.first_token_time = 0.0  # as time.perf_counter

    def now(self) -> float:
        """time.perf_counter, once the device has finished its work."""
        if self._device.type != "cpu":
            torch.accelerator.synchronize(self._device)
        return time.perf_counter()

    def watch(self, input_ids: torch.Tensor, scores_BV: torch.Tensor) -> torch.Tensor:
        if not self.first_token_time:
            self.first_token_time = self.now()
        largest_B = scores_BV.amax(-1)  # NaN and infinity come through, in the sum too; no step waits for the device
        self._sum_B = largest_B if self._sum_B is None else self._sum_B + largest_B
        return scores_BV

    def finite(self) -> list[bool]:
        """Whether every step's logits were finite, row by row; to be called after `generate`."""
        assert self._sum_B is not None, "generate has not run"
        finite: list[bool] = self._sum_B.isfinite().tolist()
        return finite
