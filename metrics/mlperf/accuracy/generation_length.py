"""How much was written in all: MLPerf's guard against short summaries, for llama3.1-8b."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from configs.registry import register
from metrics.base import Figure, Metric, Run
from metrics.quality.rouge import one_sentence_a_line


@register("generation_length")
@dataclass(frozen=True)
class GenerationLength(Metric):
    """Characters, not tokens, of all judged answers together, without outer space and with one character between sentences.

    Scored are the answers that ROUGE scores; a failed one has no characters. MLPerf calls it gen_len and wants it within a tenth of
    its own. Source: mlcommons/inference, language/llama3.1-8b/evaluation.py.
    """

    def compute(self, run: Run) -> Mapping[str, Figure]:
        judged = [r for r in run.judged if run.samples[r.sample_index].meta.get("scored_by") == "rouge"]
        if not judged:
            return {}
        total = sum(len(one_sentence_a_line(r.text or "")) for r in judged if r.status == "done")
        return {"generation_length": Figure(float(total), "characters", "neither", len(judged))}
