"""The total length of all summaries: MLPerf's guard against short ones, for llama3.1-8b."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from configs.registry import register
from metrics.base import Figure, Metric, Run
from metrics.quality.rouge import one_sentence_a_line


@register("generation_length")
@dataclass(frozen=True)
class GenerationLength(Metric):
    """The number of characters, not tokens, of all judged answers, without surrounding space and with one character between sentences.

    It counts the answers that ROUGE scores; a failed answer has no characters. MLPerf calls it gen_len and requires it to be within 10 %
    of the reference's. Source: mlcommons/inference, language/llama3.1-8b/evaluation.py.
    """

    def compute(self, run: Run) -> Mapping[str, Figure]:
        judged = [r for r in run.judged if run.samples[r.sample_index].meta.get("scored_by") == "rouge"]
        if not judged:
            return {}
        total = sum(len(one_sentence_a_line(r.text or "")) for r in judged if r.status == "done")
        return {"generation_length": Figure(float(total), "characters", "neither", len(judged))}
