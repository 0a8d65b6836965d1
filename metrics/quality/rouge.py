"""ROUGE of an answer to its reference text."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from configs.registry import register
from metrics.base import Run, SampleMetric
from workloads.records import Record, Sample

KINDS = {"rouge1": "rouge_1", "rouge2": "rouge_2", "rougeL": "rouge_l", "rougeLsum": "rouge_lsum"}


@register("rouge")
@dataclass(frozen=True)
class Rouge(SampleMetric):
    """ROUGE-1, -2, -L and -Lsum: mean over samples of the F measure, 0 to 1; MLPerf prints it times 100. Higher is better.

    Samples with a reference `answer` and `scored_by: rouge` are scored, as MLPerf does for llama2-70b: Google's
    rouge-score with Porter's stemmer and one sentence per line, which only -Lsum uses. Sentences end here at `.`, `!` or
    `?` before a space; MLPerf uses NLTK's Punkt, which recognises abbreviations and needs a download.
    Source: mlcommons/inference, language/llama2-70b/evaluate-accuracy.py; Lin, ROUGE (2004).
    """

    name: ClassVar[str] = "rouge_l"
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    headings: ClassVar[Mapping[str, tuple[str, ...]]] = {"Quality": ("rouge_",)}
    headline: ClassVar[tuple[str, ...]] = ("rouge_l",)

    def applies(self, sample: Sample) -> bool:
        return sample.meta.get("scored_by") == "rouge" and "answer" in sample.meta

    def score(self, run: Run, sample: Sample, record: Record) -> Mapping[str, float]:
        found = _scorer().score(one_sentence_a_line(str(sample.meta["answer"])), one_sentence_a_line(record.text or ""))
        return {name: float(found[kind].fmeasure) for kind, name in KINDS.items()}

    def worst_names(self, sample: Sample) -> Sequence[str]:
        return tuple(KINDS.values())


def one_sentence_a_line(text: str) -> str:
    return re.sub(r"(?<=[.!?])\s+", "\n", text.strip())


@functools.cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(KINDS), use_stemmer=True)
