"""World score: whether a video shows what its caption of the embedded world describes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from configs.registry import register
from metrics.base import Run, SampleMetric
from workloads.records import Record, Sample
from workloads.world.checker import ATTRIBUTES, check_clip
from workloads.world.scenes import parse_caption


@register("world_score")
@dataclass(frozen=True)
class WorldScore(SampleMetric):
    """Share of prompts with every attribute right, 0 to 1, and one share per attribute. Higher is better.

    workloads/world/checker.py reads the attributes from the saved pixels, without access to the model. Prompts that are
    not of the embedded world are not scored.
    """

    name: ClassVar[str] = "world_score"
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    headings: ClassVar[Mapping[str, tuple[str, ...]]] = {"Quality": ("world_",)}
    headline: ClassVar[tuple[str, ...]] = ("world_score",)

    def applies(self, sample: Sample) -> bool:
        return bool(sample.meta.get("world"))

    def score(self, run: Run, sample: Sample, record: Record) -> Mapping[str, float]:
        verdict = check_clip(run.video(record), sample.prompt)
        return {"world_score": float(all(verdict.values()))} | {f"world_{a}": float(ok) for a, ok in verdict.items()}

    def worst_names(self, sample: Sample) -> Sequence[str]:
        stated = ATTRIBUTES if parse_caption(sample.prompt).background else ATTRIBUTES[:5]
        return ("world_score", *(f"world_{a}" for a in stated))
