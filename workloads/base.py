"""Workload: a data set with its default pipeline, metrics and gate."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from configs.errors import ConfigError, first_line
from workloads.records import Sample, check_characters


def check_num_prompts(workload: str, num_prompts: int | None) -> None:
    """Raises ConfigError if num_prompts is less than 1."""
    if num_prompts is not None and num_prompts < 1:
        raise ConfigError(f"workload {workload!r}: option 'num_prompts' must be at least 1, got {num_prompts}")


def read_samples(workload: Workload, name: str) -> list[Sample]:
    """The data set of a workload of that name, a plugin's too.

    Raises ConfigError naming the first sample that has another form than Sample says, or a text that no file in UTF-8 can hold.
    """
    samples = list(workload.samples())
    if not samples:
        raise ConfigError(f"workload {name!r} has no sample; samples() must return at least one")
    for place, sample in enumerate(samples):
        where = f"workload {name!r}: sample {place}"
        if not isinstance(sample, Sample):
            raise ConfigError(f"{where} must be a Sample, got a {type(sample).__name__}")
        if sample.index != place:
            raise ConfigError(f"{where} has index {sample.index!r}; samples are numbered from 0 in their order")
        if not isinstance(sample.prompt, str):
            raise ConfigError(f"{where}: the prompt must be a text, got {sample.prompt!r}")
        try:
            meta = json.dumps(dict(sample.meta), ensure_ascii=False)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{where}: meta must hold what JSON has: {first_line(error)}") from None
        for text in (sample.prompt, meta):
            check_characters(text, where)
    return samples


class Workload(ABC):
    """A data set with its defaults. Subclasses are dataclasses; their fields are the options under `dataset:`.

    unit: what throughput counts beside answers, such as `frames`. noun: the plural of one answer. has_media: answers are files in the run
    folder. default_gate: values that figures must reach for a run to be VALID, unless the run has a `gate` of its own.
    """

    unit: ClassVar[str]
    noun: ClassVar[str]
    has_media: ClassVar[bool] = False
    default_pipeline: ClassVar[str]
    default_metrics: ClassVar[tuple[str, ...]]
    default_gate: ClassVar[Mapping[str, float]] = {}

    @abstractmethod
    def samples(self) -> Sequence[Sample]:
        """The data set, in a fixed order: sample i has index i. Raises ConfigError if it cannot be read."""
