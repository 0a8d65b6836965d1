"""TTFT, TPOT, inter-token latency and time in the queue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from configs.registry import register
from metrics.base import Figure, Metric, Run
from metrics.performance.latency import percentile_figures
from metrics.performance.token_times import token_gaps
from workloads.records import Record


@register("token_latency")
@dataclass(frozen=True)
class TokenLatency(Metric):
    """Seconds, with percentiles and bounds as in `latency`. Lower is better. Only for streamed answers.

    ttft   time to first token = first token - scheduled issue; for a query without one, failed or not, the whole latency
    tpot   time per output token = (completion - first token) / (tokens - 1), of answers of two tokens or more
    itl    inter-token latency: every gap between two tokens of an answer. Gaps of one answer depend on each
           other, so they have no bounds
    queue  start of service - scheduled issue
    first_token_in_service   first token - start of service; in the offline scenario in place of ttft and queue, which would only
           show the position in the queue there
    Source: MLPerf LoadGen, logging.cc (ttft and tpot).
    """

    headings: ClassVar[Mapping[str, tuple[str, ...]]] = {"Speed": ("ttft_", "first_token_", "tpot_", "itl_", "queue_")}

    def compute(self, run: Run) -> Mapping[str, Figure]:
        records = run.timed
        if not any(r.first_token_s is not None for r in records):
            return {}
        offline = run.config.scenario == "offline"
        if offline:
            why = "from the start of service, not TTFT"
            figures = percentile_figures("first_token_in_service", first_tokens_in_service(records), why)
        else:
            figures = percentile_figures("ttft", first_token_waits(records))
        figures |= percentile_figures("tpot", output_token_times(records))
        gaps = token_gaps(records)
        gaps.sort()  # in place: of a million answers they are 200 MB
        figures |= percentile_figures("itl", gaps, bounds=False)
        if not offline:
            figures |= percentile_figures("queue", [r.started_s - r.issued_s for r in records if r.started_s is not None], bounds=False)
        return figures


def first_token_waits(records: Sequence[Record]) -> list[float]:
    """TTFT of every query of a run with streamed answers, empty for others.

    A query whose first token was never announced waited until it was answered or abandoned, as LoadGen has it.
    """
    streamed = any(r.first_token_s is not None for r in records)
    return [r.latency_s if r.ttft_s is None else r.ttft_s for r in records if streamed or r.status == "failed"]


def first_tokens_in_service(records: Sequence[Record]) -> list[float]:
    """Seconds from the start of service to the first token."""
    return [r.first_token_s - r.started_s for r in records if r.first_token_s is not None and r.started_s is not None]


def output_token_times(records: Sequence[Record]) -> list[float]:
    """TPOT of every answer that has one."""
    return [r.tpot_s for r in records if r.status == "done" and r.tpot_s is not None]
