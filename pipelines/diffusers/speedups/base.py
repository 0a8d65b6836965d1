"""The interface of the options that make `diffusers_t2v` faster or smaller: one class each, applied in the order of order.py."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol

import torch

from pipelines.diffusers.families import VideoFamily
from pipelines.diffusers.outline import Outline, read_outline
from pipelines.distributed.replica import Replica


class DiffusersOptions(Protocol):
    """The options of DiffusersT2V that a speed-up reads beside its own."""

    model: str
    weights: Any
    first_frame: Any
    batch_size: int
    replica: Replica
    quantisation: str | dict[str, Any] | None
    cache: str | dict[str, Any] | None
    offload: str | dict[str, Any] | None
    vae_tiling: bool
    vae_decode: Any
    vae_channels_last: bool | None
    vae_overlap: int


@dataclass
class Target:
    """What is known before weights are read. folder: of the configuration files, or a hub name."""

    folder: str
    revision: str | None
    device: torch.device
    dtype: torch.dtype

    @cached_property
    def outline(self) -> Outline:
        """Read when first used, since a pipeline with classes of its own has none. Raises ConfigError."""
        return read_outline(self.folder, self.revision)


@dataclass
class Loaded:
    """A pipeline with its weights. denoisers: by name. generate_one(prompt, seed): makes one clip, for speed-ups that calibrate.

    step(num_clips): makes a denoising step of so many clips, and returns their latents, for speed-ups that try what is fastest.
    """

    pipe: Any
    denoisers: Mapping[str, Any]
    family: VideoFamily
    device: torch.device
    generate_one: Callable[[str, int], None]
    step: Callable[[int], torch.Tensor]


class SpeedUp(ABC):
    """One option of `diffusers_t2v`. Every pipeline holds one object of each class, whether the option is requested or not.

    option: the field of DiffusersT2V; `parallel` is the part of RunConfig. unset: values that request nothing.
    entry: its name in Pipeline.effective.
    depends_on_batch: whether answers depend on the batch that they are in; Pipeline.repeats is then `in_batch`.
    Options that contradict each other are checked by the class that comes later in order.py.
    """

    option: ClassVar[str]
    unset: ClassVar[tuple[Any, ...]] = (None, False)
    entry: ClassVar[str]
    depends_on_batch: bool = False

    def __init__(self, options: DiffusersOptions) -> None:
        """Read the option. Raises ConfigError where its value is wrong or contradicts another option."""
        self.options = options

    @property
    def value(self) -> Any:
        return getattr(self.options, self.option)

    @property
    def requested(self) -> bool:
        return self.value not in self.unset

    def check(self, target: Target) -> None:  # noqa: B027  (not every option can be checked so early)
        """Refuse, before weights are read, what this model or device, or this split over ranks, cannot do. Raises ConfigError.

        A subclass must not keep the target: worker/inspection.py would take the outline's empty denoisers for the model.
        """

    def for_loading(self, target: Target) -> Mapping[str, Any]:
        """Return arguments for `from_pretrained`. Raises ConfigError."""
        return {}

    @abstractmethod
    def apply(self, loaded: Loaded) -> None:
        """Change the loaded pipeline. Called only where the option is requested. Raises ConfigError."""

    def start_batch(self) -> None:  # noqa: B027  (most keep nothing from one batch to the next)
        """Prepare for a batch: called before each."""

    @abstractmethod
    def effective(self, loaded: Loaded) -> str | None:
        """Return what is effective, read from the modules and never from the option; None where there is nothing to report."""

    def notes(self, loaded: Loaded) -> Mapping[str, str]:
        """Return further entries of Pipeline.effective, such as why a default was chosen (`.._choice`). Numbers in them may change."""
        return {}

    def fallbacks(self, loaded: Loaded) -> Sequence[str]:
        """Return what was requested and is not effective, one sentence each."""
        return ()


def name_of(value: str | Mapping[str, Any] | None) -> str:
    """The name in an option that is a name, or a mapping with `name` and parameters; `none` where it is not given."""
    return str(value["name"] if isinstance(value, Mapping) else value or "none")


def hooks_of(module: Any) -> Mapping[str, Any]:
    """The hooks that diffusers has put on a module, by name."""
    return dict(module._diffusers_hook.hooks) if hasattr(module, "_diffusers_hook") else {}
