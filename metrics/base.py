"""The plugin interface for metrics: Metric, SampleMetric and VideoMetric, and the Figures that they compute."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from configs.run_config import RunConfig
from metrics.statistics.clusters import clustered_interval, prompt_cluster
from metrics.statistics.intervals import mean_interval, wilson_interval
from workloads.base import Workload
from workloads.records import Record, Sample
from workloads.run_folder.media import read_video
from workloads.run_folder.record_log import without_record

Better = Literal["higher", "lower", "neither"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of a report.

    value: None where it cannot be computed; `note` then gives the reason. better: which direction is better. n: number of observations.
    ci95: a 95 % confidence interval, where one can be computed.
    """

    value: float | None
    unit: str
    better: Better
    n: int
    ci95: tuple[float, float] | None = None
    note: str = ""


@dataclass(frozen=True)
class Run:
    """A finished run, read from its folder.

    records: all Records, failed ones too, in the order in which they finished.
    """

    folder: Path
    config: RunConfig
    workload: Workload
    samples: Sequence[Sample]
    records: Sequence[Record]
    outcome: Mapping[str, Any]

    def of_mode(self, mode: str) -> list[Record]:
        return list(self._by_mode.get(mode, ()))

    @cached_property
    def _by_mode(self) -> Mapping[str, Sequence[Record]]:
        modes: dict[str, list[Record]] = {}
        for record in self.records:
            modes.setdefault(record.mode, []).append(record)
        return modes

    @property
    def timed(self) -> list[Record]:
        """The records that speed is computed from: those of the performance test. An accuracy test is not timed."""
        return self.of_mode("performance")

    @property
    def judged(self) -> list[Record]:
        """The records that quality is computed from: one per sample, of the accuracy test where there was one.

        A sample that was answered several times is judged by its first answer: the seed is the same.
        """
        return list(self._judged)

    @cached_property
    def _judged(self) -> Sequence[Record]:
        first: dict[int, Record] = {}
        for record in self._by_mode.get("accuracy") or self.records:
            first.setdefault(record.sample_index, record)
        return [first[index] for index in sorted(first)]

    @property
    def metric_names(self) -> Sequence[str]:
        """The metrics that the run is reported by."""
        return self.config.metrics or self.workload.default_metrics

    @property
    def has_random_weights(self) -> bool:
        """Whether the weights are random: the answers then say nothing about a model's quality."""
        return self.config.pipeline_options.get("weights") == "random"

    @property
    def ranks(self) -> list[dict[str, Any]]:
        """What each rank reported in the last test that has ranks, as outcome.json holds it; of a replica, its first rank alone."""
        return next((list(o["ranks"]) for o in reversed(list(self.outcome.values())) if o.get("ranks")), [])

    @property
    def num_issued(self) -> int:
        """Queries issued, as outcome.json has them; of a test that is missing there, as its conductor logged them."""
        count = 0
        for mode in ("performance", "accuracy"):
            num_issued = self.outcome.get(mode, {}).get("num_issued")
            records = self.of_mode(mode)
            count += len(records) + len(without_record(self.folder, mode, records)) if num_issued is None else int(num_issued)
        return count

    @property
    def num_failed(self) -> int:
        """Queries without an answer: failed ones, and ones that left no record."""
        return sum(r.status == "failed" for r in self.records) + max(self.num_issued - len(self.records), 0)

    def video(self, record: Record) -> NDArray[np.uint8]:
        """video_THWC as it was saved. Raises ValueError where the file is missing or damaged."""
        if record.media is None:
            raise ValueError(f"query {record.query_id} has no video")
        return _video(self.folder / record.media)


class Metric(ABC):
    """Figures computed from a run's records. Subclasses are dataclasses; their fields are their options.

    headings: the heading under which a report's page lists a figure, and how the figures' names begin, such as {"Quality": ("rouge_",)};
    an entry that begins with `_` is how they end. A figure without a heading is under Other. Figures under Quality are withheld for
    random weights. headline: figures that say most of the answers' quality; they stand in the last line, on cards and in comparisons.
    """

    headings: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    headline: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def compute(self, run: Run) -> Mapping[str, Figure]:
        """Figures by name. An empty mapping where the metric does not apply to this run."""


class SampleMetric(Metric):
    """A metric that scores each judged answer by itself and reports the mean.

    A failed or unreadable answer scores `worst`. A score of bools gets a Wilson interval, any other Student's t. Intervals end at `bounds`,
    the lowest and the highest score that there can be. Answers to the same prompt are taken as a whole: statistics/clusters.py.
    """

    name: ClassVar[str]
    unit: ClassVar[str] = ""
    better: ClassVar[Better] = "higher"
    worst: ClassVar[float] = 0.0
    bounds: ClassVar[tuple[float, float]] = (-math.inf, math.inf)

    def applies(self, sample: Sample) -> bool:
        """Whether answers to this sample are scored. Answers to other samples do not count, failed or not."""
        return True

    @abstractmethod
    def score(self, run: Run, sample: Sample, record: Record) -> Mapping[str, float]:
        """Scores of one answer by figure name; empty where the metric does not score this kind of answer.

        Raises ValueError where the answer cannot be read.
        """

    def compute(self, run: Run) -> Mapping[str, Figure]:
        return self.summarise(run, self.scores(run))

    def summarise(self, run: Run, scores_by_query: Mapping[int, Mapping[str, float]]) -> dict[str, Figure]:
        """Means of the scores that `scores` returns."""
        samples = ((r.query_id, run.samples[r.sample_index]) for r in run.judged if r.query_id in scores_by_query)
        prompts = {query_id: prompt_cluster(sample.prompt, sample.images) for query_id, sample in samples}
        columns: dict[str, dict[int, float]] = {}
        for query_id, scores in scores_by_query.items():
            for name, value in scores.items():
                columns.setdefault(name, {})[query_id] = value
        return {name: self._figure(column, prompts) for name, column in columns.items()}

    def scores(self, run: Run) -> dict[int, Mapping[str, float]]:
        """Scores by query id of every judged answer that this metric scores."""
        found: dict[int, Mapping[str, float]] = {}
        unread = []
        for record in run.judged:
            sample = run.samples[record.sample_index]
            if not self.applies(sample):
                continue
            if record.status != "done":
                unread.append(record)
                continue
            try:
                scores = self.score(run, sample, record)
            except ValueError:
                unread.append(record)
                continue
            if not isinstance(scores, Mapping):
                raise TypeError(f"score returned {scores!r:.40}, not a mapping of figure names to numbers")
            if scores:
                found[record.query_id] = scores
        names = sorted({n for scores in found.values() for n in scores}) or [self.name]
        for record in unread:
            found[record.query_id] = dict.fromkeys(self.worst_names(run.samples[record.sample_index]) or names, self.worst)
        return found

    def worst_names(self, sample: Sample) -> Sequence[str]:
        """The figures in which a missing answer to this sample scores `worst`; where empty, all figures that other answers have."""
        return ()

    def _figure(self, column: Mapping[int, float], prompts: Mapping[int, bytes]) -> Figure:
        values = list(column.values())
        mean = math.fsum(values) / len(values)
        yes_no = all(v in (0.0, 1.0) for v in values)
        clusters = [prompts.get(query_id, query_id) for query_id in column]
        if len(set(clusters)) < len(values):
            interval = clustered_interval(values, clusters, yes_no)
        else:
            interval = wilson_interval(round(sum(values)), len(values)) if yes_no else mean_interval(values)
        low, high = self.bounds
        return Figure(mean, self.unit, self.better, len(values), interval and (max(interval[0], low), min(interval[1], high)))


class VideoMetric(SampleMetric):
    """A SampleMetric with one figure, computed from the saved video. A video without a score does not count in it."""

    def summarise(self, run: Run, scores_by_query: Mapping[int, Mapping[str, float]]) -> dict[str, Figure]:
        undefined = {self.name: Figure(None, self.unit, self.better, 0, note="no video has this score: it is undefined for all of them")}
        has_videos = any(record.media for record in run.judged)
        return super().summarise(run, scores_by_query) or (undefined if has_videos else {})

    def score(self, run: Run, sample: Sample, record: Record) -> Mapping[str, float]:
        if record.media is None:
            return {}
        value = self.score_video(run, record, run.video(record))
        return {} if value is None else {self.name: value}

    @abstractmethod
    def score_video(self, run: Run, record: Record, video_THWC: NDArray[np.uint8]) -> float | None:
        """The video's score; None where it is undefined, as for a video that is too short."""


@lru_cache(maxsize=512)
def _video(path: Path) -> NDArray[np.uint8]:
    return read_video(path)
