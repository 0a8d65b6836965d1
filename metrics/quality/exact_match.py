"""Exact match: whether a text answer is the expected one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from configs.registry import register
from metrics.base import Run, SampleMetric
from workloads.records import Record, Sample


@register("exact_match")
@dataclass(frozen=True)
class ExactMatch(SampleMetric):
    """Share of answers that are the expected text, apart from case and surrounding space. Higher is better.

    exact_match_<task>: one task, where there are several. exact_match_held_out: the samples that are held out from training,
    where only some are. Samples for another metric (`scored_by: rouge`, `gpqa` ..) are left out.
    """

    name: ClassVar[str] = "exact_match"
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    headings: ClassVar[Mapping[str, tuple[str, ...]]] = {"Quality": ("exact_match",)}
    headline: ClassVar[tuple[str, ...]] = ("exact_match",)

    def applies(self, sample: Sample) -> bool:
        return "answer" in sample.meta and sample.meta.get("scored_by", self.name) == self.name

    def score(self, run: Run, sample: Sample, record: Record) -> Mapping[str, float]:
        return {self.name: float(_plain(record.text or "") == _plain(str(sample.meta["answer"])))}

    def scores(self, run: Run) -> dict[int, Mapping[str, float]]:
        """Each score, also under the names of the parts of the data set that its sample belongs to."""
        found = super().scores(run)
        meta = {r.query_id: run.samples[r.sample_index].meta for r in run.judged if r.query_id in found}
        several_tasks = len({str(m.get("task")) for m in meta.values()}) > 1
        two_splits = len({bool(m.get("held_out")) for m in meta.values()}) > 1
        named: dict[int, Mapping[str, float]] = {}
        for query_id, scores in found.items():
            names = [self.name]
            if several_tasks and "task" in meta[query_id]:
                names.append(f"{self.name}_{meta[query_id]['task']}")
            if two_splits and meta[query_id].get("held_out"):
                names.append(f"{self.name}_held_out")
            named[query_id] = dict.fromkeys(names, scores[self.name])
        return named


def _plain(text: str) -> str:
    return text.strip().lower()
