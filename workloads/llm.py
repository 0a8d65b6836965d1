"""Language: questions about a described scene of the embedded world, answered in a word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from configs.registry import register
from workloads.base import Workload
from workloads.records import Sample
from workloads.world import Group, caption, sample_scene

QUESTIONS = {"colour": "what colour is it?", "shape": "what shape is it?", "direction": "which way does it go?"}


@register("llm")
@dataclass(frozen=True)
class Language(Workload):
    """`num_prompts` descriptions, each with a question whose answer is one word of the scene."""

    num_prompts: int = 64

    unit: ClassVar[str] = "tokens"
    noun: ClassVar[str] = "answers"
    default_pipeline: ClassVar[str] = "toy_llm"
    default_metrics: ClassVar[tuple[str, ...]] = ("throughput", "latency", "peak_memory", "exact_match")

    def samples(self) -> Sequence[Sample]:
        return [
            Sample(i, f"{text}. {question}", {"answer": answer}) for i, (_, text, question, answer) in enumerate(draw(self.num_prompts))
        ]


def draw(count: int) -> list[tuple[Group, str, str, str]]:
    """`count` scenes of one object: the object, its caption, a question about it and the answer."""
    rng = np.random.default_rng(4_711)
    drawn = []
    for _ in range(count):
        scene = sample_scene(rng, "simple")
        attribute = str(rng.choice(list(QUESTIONS)))
        answer = str(getattr(scene.groups[0], attribute))
        drawn.append((scene.groups[0], caption(scene), QUESTIONS[attribute], answer))
    return drawn
