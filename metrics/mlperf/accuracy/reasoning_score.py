"""The base of the scores of gpt-oss and deepseek-r1: questions of several parts, each with its own grading."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from metrics.base import Figure, Run, SampleMetric
from metrics.mlperf.accuracy.code_results import passed
from metrics.mlperf.accuracy.math_answers import same_result
from metrics.mlperf.accuracy.reasoning_answers import aime_number, boxed
from metrics.statistics.intervals import mean_interval
from workloads.mlperf.language import CHOICES
from workloads.records import Record, Sample


class ReasoningScore(SampleMetric):
    """A mean over questions of several parts, with each question repeated `repeats[part]` times.

    score = sum over parts (right answers / repeats) / sum over parts (answers / repeats). An answer that cannot be parsed is wrong. A
    program is right if it passes its tests, which `suite.py run-code RUN` runs; before that there is no score.
    """

    prefix: ClassVar[str]
    repeats: ClassVar[Mapping[str, int]]
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)

    @abstractmethod
    def letter(self, text: str, part: str) -> str | None:
        """The choice in an answer."""

    @abstractmethod
    def program(self, text: str) -> str | None:
        """The program in an answer."""

    def applies(self, sample: Sample) -> bool:
        return sample.meta.get("scored_by") in self.repeats and "answer" in sample.meta

    def score(self, run: Run, sample: Sample, record: Record) -> Mapping[str, float]:
        right = self._is_right(run, sample, record)
        return {} if right is None else {self.name: float(right), self._of(sample): float(right)}

    def worst_names(self, sample: Sample) -> Sequence[str]:
        return self.name, self._of(sample)

    def compute(self, run: Run) -> Mapping[str, Figure]:
        judged = [r for r in run.judged if self.applies(run.samples[r.sample_index])]
        if not judged:
            return {}
        scores = self.scores(run)
        figures = self.summarise(run, scores)
        num_untested = len(judged) - len(scores)
        if num_untested:
            note = f"{num_untested} of {len(judged)} answers hold programs that were not run: suite.py run-code {run.folder.name}"
            figures = {n: replace(f, note=note) if n.endswith("livecodebench") else f for n, f in figures.items()}
            return figures | {self.name: Figure(None, self.unit, self.better, len(judged), note=note)}
        return figures | {self.name: self._mixture(run, judged, scores)}

    def _mixture(self, run: Run, judged: Sequence[Record], scores: Mapping[int, Mapping[str, float]]) -> Figure:
        weights = [1 / self.repeats[_part(run, r)] for r in judged]
        right = [scores[r.query_id][self.name] for r in judged]
        value = math.fsum(w * x for w, x in zip(weights, right, strict=True)) / math.fsum(weights)
        by_question: dict[tuple[str, str], list[float]] = {}
        for record, x in zip(judged, right, strict=True):
            by_question.setdefault((_part(run, record), run.samples[record.sample_index].prompt), []).append(x)
        complete = all(len(answers) == self.repeats[part] for (part, _), answers in by_question.items())
        means = [math.fsum(answers) / len(answers) for answers in by_question.values()]
        note = "" if complete else f"questions were not repeated {_repeats_text(self.repeats)} times"
        interval = mean_interval(means) if complete else None
        return Figure(value, self.unit, self.better, len(judged), interval and (max(interval[0], 0.0), min(interval[1], 1.0)), note)

    def _is_right(self, run: Run, sample: Sample, record: Record) -> bool | None:
        """Whether the answer is right; None for a program that was not run."""
        part, text, answer = str(sample.meta["scored_by"]), record.text or "", str(sample.meta["answer"])
        if part in CHOICES:
            return self.letter(text, part) == answer.upper()
        if part == "aime":
            return aime_number(text) == int(answer)
        if part == "math":
            return same_result(boxed(text) or "", answer)
        program = self.program(text)
        return False if not program else passed(run.folder, record.query_id, program)

    def _of(self, sample: Sample) -> str:
        return f"{self.prefix}_{sample.meta['scored_by']}"


def _part(run: Run, record: Record) -> str:
    return str(run.samples[record.sample_index].meta["scored_by"])


def _repeats_text(repeats: Mapping[str, int]) -> str:
    counts = Counter(repeats.values())
    return str(next(iter(counts))) if len(counts) == 1 else ", ".join(f"{n} ({part})" for part, n in repeats.items())
