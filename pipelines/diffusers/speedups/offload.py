"""Where a diffusers pipeline's parts are: on the device, or in host memory until they are used.

model       whole parts, one at a time on the device
sequential  single layers: the least memory, and the slowest
group       groups of layers. offload_type: block_level or leaf_level, num_blocks_per_group; use_stream: copy the next group while one runs
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import torch

from configs.errors import ConfigError, first_line
from pipelines.diffusers.library_options import build, named
from pipelines.diffusers.speedups.base import DiffusersOptions, Loaded, SpeedUp, Target, hooks_of, name_of

KINDS = ("model", "sequential", "group")


@dataclass(frozen=True)
class Group:
    """Parameters of diffusers' enable_group_offload."""

    offload_type: Literal["block_level", "leaf_level"] = "block_level"
    num_blocks_per_group: int = 1
    use_stream: bool = False
    record_stream: bool = False
    non_blocking: bool = False
    low_cpu_mem_usage: bool = False

    def __post_init__(self) -> None:
        if self.num_blocks_per_group < 1:
            raise ValueError(f"num_blocks_per_group must be at least 1, got {self.num_blocks_per_group}")


class Placement(SpeedUp):
    """Moves the pipeline to the device, whole or by one way to offload. Always requested: without the option, whole."""

    option = "offload"
    unset = (None, "none")
    entry = "offload"

    def __init__(self, options: DiffusersOptions) -> None:
        super().__init__(options)
        self.name = "none"
        if self.value in self.unset:
            return
        self.name, given = named("pipeline 'diffusers_t2v'", "offload", self.value, KINDS)
        self.what = f"pipeline 'diffusers_t2v': offload {self.name!r}"
        self._group = build(Group, self.what, given) if self.name == "group" else None
        if given and not self._group:
            raise ConfigError(f"{self.what} has no options, got {next(iter(given))!r}.")

    @property
    def requested(self) -> bool:
        return True

    def check(self, target: Target) -> None:
        if self.name == "none":
            return
        if target.device.type == "cpu":
            raise ConfigError(f"{self.what} needs an accelerator; this device is a CPU. Leave it out.")
        if self.name == "sequential" and (kind := name_of(self.options.quantisation)) != "none":
            raise ConfigError(
                f"{self.what} cannot be combined with quantisation {kind!r}. Use offload 'model' or 'group', or leave one of them out."
            )

    def apply(self, loaded: Loaded) -> None:
        pipe, device = loaded.pipe, loaded.device
        if self.name == "none":
            pipe.to(device)
        elif self.name == "model":
            pipe.enable_model_cpu_offload(device=device)
        elif self.name == "sequential":
            pipe.enable_sequential_cpu_offload(device=device)
        else:
            assert self._group is not None
            values = dataclasses.asdict(self._group)
            if self._group.offload_type == "leaf_level":
                values["num_blocks_per_group"] = None
            try:
                pipe.enable_group_offload(onload_device=device, offload_device=torch.device("cpu"), **values)
            except (ValueError, NotImplementedError) as error:
                raise ConfigError(f"{self.what} does not work with this model: {first_line(error)}") from error

    def effective(self, loaded: Loaded) -> None:
        return None

    def fallbacks(self, loaded: Loaded) -> list[str]:
        """Read from the denoisers' hooks."""
        denoisers = loaded.denoisers
        if self.name == "none":
            return []
        if self.name == "group":
            bare = [name for name, denoiser in denoisers.items() if not any("group_offloading" in hooks_of(m) for m in denoiser.modules())]
        elif self.name == "sequential":
            bare = [name for name, denoiser in denoisers.items() if not any(hasattr(m, "_hf_hook") for m in denoiser.modules())]
        else:
            bare = [name for name, denoiser in denoisers.items() if not hasattr(denoiser, "_hf_hook")]
        return [f"option offload {self.name!r} is not effective in {name}" for name in bare]
