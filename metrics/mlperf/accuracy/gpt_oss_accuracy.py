"""MLPerf's accuracy of gpt-oss-120b."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from configs.registry import register
from metrics.mlperf.accuracy.reasoning_answers import gpt_oss_letter, gpt_oss_program
from metrics.mlperf.accuracy.reasoning_score import ReasoningScore
from workloads.mlperf.language import CHOICES


@register("gpt_oss_accuracy")
@dataclass(frozen=True)
class GptOssAccuracy(ReasoningScore):
    """Share of right answers over AIME 2025, GPQA diamond and LiveCodeBench v6. Higher is better; MLPerf prints it times 100.

    gpt_oss_accuracy = (right_aime / 8 + right_gpqa / 5 + right_livecodebench / 3) / (n_aime / 8 + n_gpqa / 5 + n_livecodebench / 3),
    because every question is repeated eight, five and three times. gpt_oss_<part>: plain shares; TEST07 uses gpt_oss_gpqa.
    Source: mlcommons/inference, language/gpt-oss-120b/eval_mlperf_accuracy.py.
    """

    name: ClassVar[str] = "gpt_oss_accuracy"
    prefix: ClassVar[str] = "gpt_oss"
    repeats: ClassVar[Mapping[str, int]] = {"aime": 8, "gpqa": 5, "livecodebench": 3}
    headings: ClassVar[Mapping[str, tuple[str, ...]]] = {"Quality": ("gpt_oss_",)}
    headline: ClassVar[tuple[str, ...]] = ("gpt_oss_accuracy",)

    def letter(self, text: str, part: str) -> str | None:
        return gpt_oss_letter(text, CHOICES[part])

    def program(self, text: str) -> str | None:
        return gpt_oss_program(text)
