"""MLPerf's accuracy of deepseek-r1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from configs.registry import register
from metrics.mlperf.accuracy.reasoning_answers import deepseek_letter, deepseek_program
from metrics.mlperf.accuracy.reasoning_score import ReasoningScore
from workloads.mlperf.language import CHOICES


@register("deepseek_r1_accuracy")
@dataclass(frozen=True)
class DeepseekR1Accuracy(ReasoningScore):
    """Share of right answers over MATH-500, AIME, GPQA, MMLU-Pro and LiveCodeBench. Higher is better; MLPerf prints it times 100.

    deepseek_r1_accuracy = right answers / answers, over all parts. deepseek_r1_<part>: of one part. Results of MATH-500
    are compared by metrics/mlperf/accuracy/math_answers.py, which differs from MLPerf's grader in rare notations.
    Source: mlcommons/inference, language/deepseek-r1/eval_accuracy.py.
    """

    name: ClassVar[str] = "deepseek_r1_accuracy"
    prefix: ClassVar[str] = "deepseek_r1"
    repeats: ClassVar[Mapping[str, int]] = dict.fromkeys(("math", "aime", "gpqa", "mmlu", "livecodebench"), 1)
    headings: ClassVar[Mapping[str, tuple[str, ...]]] = {"Quality": ("deepseek_r1_",)}
    headline: ClassVar[tuple[str, ...]] = ("deepseek_r1_accuracy",)

    def letter(self, text: str, part: str) -> str | None:
        return deepseek_letter(text, CHOICES[part], loose=part == "mmlu")

    def program(self, text: str) -> str | None:
        return deepseek_program(text)
