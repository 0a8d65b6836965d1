"""The plugin interface for what answers: Pipeline, and the Response it gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from workloads.records import Query, Sample

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Response:
    """One answer: a video or a text, and how long its stages took.

    video_THWC: uint8. fps: its frame rate. stages: seconds by stage name, of the batch; step_s: seconds of each denoising
    step. num_units: frames or tokens. finite: False where the pipeline's own numbers held NaN or infinity.
    error: why there is no answer; the query then counts as failed.
    """

    video_THWC: NDArray[np.uint8] | None = None
    fps: float = 8.0
    text: str | None = None
    stages: Mapping[str, float] = field(default_factory=dict)
    step_s: Sequence[float] = ()
    num_units: int = 0
    finite: bool = True
    error: str | None = None


class Pipeline(ABC):
    """A model and the way it is run. Subclasses are dataclasses; their fields are the options under `pipeline:`.

    batch_size: how many queries `generate` is given at most.
    """

    workloads: ClassVar[tuple[str, ...]]  # the workloads it can answer
    batch_size: int = 1

    @abstractmethod
    def load(self, device: torch.device) -> None:
        """Get the model onto the device. Raises ConfigError where an option or a checkpoint cannot be used."""

    @abstractmethod
    def generate(self, samples: Sequence[Sample], queries: Sequence[Query]) -> Sequence[Response]:
        """Answer one batch, in order: samples[i] is what queries[i] asks.

        The same sample and seed give the same answer. The device must be idle on return.
        """

    def effective(self) -> Mapping[str, str]:
        """What is really in force after `load`: dtype, attention, quantisation, cache and the like, by name."""
        return {}

    def fallbacks(self) -> Sequence[str]:
        """Options that were asked for and are not in force, one sentence each. A run with any is INVALID."""
        return ()
