"""Workload: a data set with its default pipeline, metrics and gate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from configs.errors import ConfigError
from workloads.records import Sample


def check_num_prompts(workload: str, num_prompts: int | None) -> None:
    """Raises ConfigError if num_prompts is less than 1."""
    if num_prompts is not None and num_prompts < 1:
        raise ConfigError(f"workload {workload!r}: option 'num_prompts' must be at least 1, got {num_prompts}")


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
