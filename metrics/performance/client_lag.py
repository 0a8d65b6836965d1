"""How late the client of a server was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from configs.registry import register
from metrics.base import Figure, Metric, Run
from metrics.performance.latency import percentile_figures


@register("client_lag")
@dataclass(frozen=True)
class ClientLag(Metric):
    """Seconds by which the client's event loop was late when first tokens came, or whole answers. Lower is better.

    A timer ticks every 10 ms in the same loop as the connections; the lag is the delay of its last tick, or of one that is overdue. Tokens
    are noted about as late as that, so times of the server are too long by it. The truth check `client_lag` compares it with the TTFT.
    """

    headings: ClassVar[Mapping[str, tuple[str, ...]]] = {"Speed": ("client_lag_",)}

    def compute(self, run: Run) -> Mapping[str, Figure]:
        return percentile_figures("client_lag", [r.client_lag_s for r in run.timed if r.client_lag_s is not None], bounds=False)
