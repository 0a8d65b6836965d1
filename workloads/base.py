"""Workload: what is asked, what it is judged by, and what answers where nobody says otherwise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from configs.errors import ConfigError
from workloads.records import Sample


def check_num_prompts(workload: str, num_prompts: int | None) -> None:
    """Raises ConfigError where none are asked for."""
    if num_prompts is not None and num_prompts < 1:
        raise ConfigError(f"workload {workload!r}: option 'num_prompts' is {num_prompts}: at least 1 is needed")


class Workload(ABC):
    """A data set with its defaults. Subclasses are dataclasses; their fields are the options under `dataset:`.

    unit: what a throughput counts beside answers, such as `frames`. noun: what one answer is, in the plural. has_media: answers are
    files in the run folder. default_gate: what figures must reach for a run to be VALID, where it has no `gate` of its own.
    """

    unit: ClassVar[str]
    noun: ClassVar[str]
    has_media: ClassVar[bool] = False
    default_pipeline: ClassVar[str]
    default_metrics: ClassVar[tuple[str, ...]]
    default_gate: ClassVar[Mapping[str, float]] = {}

    @abstractmethod
    def samples(self) -> Sequence[Sample]:
        """The data set, in a fixed order: sample i has index i. Raises ConfigError where it cannot be read."""
