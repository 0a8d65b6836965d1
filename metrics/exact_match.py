"""Whether a text answer is the one expected."""

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
    """Share of answers that are the expected text, but for case and surrounding space. Higher is better."""

    name: ClassVar[str] = "exact_match"

    def score(self, run: Run, sample: Sample, record: Record) -> Mapping[str, float]:
        if "answer" not in sample.meta:
            return {}
        return {self.name: float((record.text or "").strip().lower() == str(sample.meta["answer"]).lower())}
