"""Token counts, how answers end, and batch occupancy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from configs.registry import register
from metrics.base import Figure, Metric, Run
from metrics.performance.throughput import rate_figure
from metrics.statistics.intervals import mean_interval, wilson_interval
from workloads.records import Record


@register("tokens")
@dataclass(frozen=True)
class Tokens(Metric):
    """Figures of token counts, for workloads of texts. Output tokens per second are `throughput`'s tokens_per_s.

    total_tokens_per_s  (prompt + answer tokens of answered queries) / (last completion - first issue). Higher is better
    tokens_per_sample   mean tokens of a judged answer, including its end token; a failed one has 0. MLPerf has gates for it
    prompt_tokens_mean  mean tokens of a judged prompt, images included
    end_token_share     share of judged answers that ended at an end token. Higher is better
    empty_share         share of judged answers whose first token was the end token, or that have no visible character
    batch_occupancy     mean queries in service on a rank, over the time from its first query to its last answer
    """

    headings: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "Speed": ("total_tokens_per_s",),
        "Answers and load": ("tokens_per_sample", "prompt_tokens_", "end_token_", "empty_", "batch_occupancy"),
    }

    def compute(self, run: Run) -> Mapping[str, Figure]:
        if run.workload.unit != "tokens" or not run.records:
            return {}
        return _total(run) | _lengths(run.judged) | _endings(run.judged) | _occupancy(run.timed)


def is_empty(record: Record) -> bool:
    """Whether an answer has no visible character, or no token but the end token."""
    return not (record.text or "").strip() or (record.num_units == 1 and record.finish_reason == "stop")


def _total(run: Run) -> dict[str, Figure]:
    if not any(r.num_input_tokens for r in run.timed if r.status == "done"):
        return {}
    return rate_figure(run, "total_tokens_per_s", "tokens", lambda r: r.num_input_tokens + r.num_units)


def _lengths(records: Sequence[Record]) -> dict[str, Figure]:
    figures = {"tokens_per_sample": _mean([float(r.num_units) if r.status == "done" else 0.0 for r in records])}
    if prompts := [float(r.num_input_tokens) for r in records if r.num_input_tokens]:
        figures["prompt_tokens_mean"] = _mean(prompts)
    return figures


def _mean(counts: Sequence[float]) -> Figure:
    interval = mean_interval(counts)
    return Figure(math.fsum(counts) / len(counts), "tokens", "neither", len(counts), interval and (max(interval[0], 0.0), interval[1]))


def _endings(records: Sequence[Record]) -> dict[str, Figure]:
    done, n = [r for r in records if r.status == "done"], len(records)
    num_empty = sum(is_empty(r) for r in done)
    figures = {"empty_share": Figure(num_empty / n, "", "lower", n, wilson_interval(num_empty, n))}
    if any(r.finish_reason for r in done):
        num_ended = sum(r.finish_reason == "stop" for r in done)
        figures["end_token_share"] = Figure(num_ended / n, "", "higher", n, wilson_interval(num_ended, n))
    return figures


def _occupancy(records: Sequence[Record]) -> dict[str, Figure]:
    by_rank: dict[int, list[tuple[float, float]]] = {}
    for record in records:
        if record.started_s is not None:
            by_rank.setdefault(record.rank, []).append((record.started_s, record.completed_s))
    busy_s = math.fsum(end - start for spans in by_rank.values() for start, end in spans)
    total_s = math.fsum(max(end for _, end in spans) - min(start for start, _ in spans) for spans in by_rank.values())
    if total_s <= 0:
        return {}
    return {"batch_occupancy": Figure(busy_s / total_s, "queries", "neither", len(by_rank), note="n: ranks")}
