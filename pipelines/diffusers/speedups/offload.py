"""Parts of a diffusers pipeline that wait in host memory until they are used.

model       whole parts, one at a time on the device
sequential  single layers, the least memory and the slowest
group       groups of layers. offload_type: block_level or leaf_level, num_blocks_per_group; use_stream: bring the next group while one runs
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from configs.errors import ConfigError, first_line
from pipelines.diffusers.library_options import build, named

if TYPE_CHECKING:
    import torch

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
            raise ValueError(f"option 'num_blocks_per_group' is {self.num_blocks_per_group}; it must be at least 1")


class Offload:
    """One way to offload. Raises ConfigError where the options are wrong."""

    def __init__(self, options: str | Mapping[str, Any]) -> None:
        self.name, given = named("pipeline 'diffusers_t2v'", "offload", options, KINDS)
        self.what = f"pipeline 'diffusers_t2v': offload {self.name!r}"
        self._group = build(Group, self.what, given) if self.name == "group" else None
        if given and not self._group:
            raise ConfigError(f"{self.what} has no option {next(iter(given))!r}; it has none")

    def check(self, device: torch.device) -> None:
        if device.type == "cpu":
            raise ConfigError(f"{self.what} needs an accelerator, and there is none here; leave it out")

    def apply(self, pipe: Any, device: torch.device) -> None:
        """Put it to work; the parts go where they have to."""
        import dataclasses

        import torch

        if self.name == "model":
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

    def fallbacks(self, pipe: Any, denoisers: Mapping[str, Any]) -> list[str]:
        """What was asked for and is not in force, read from the denoisers' hooks."""
        if self.name == "group":
            bare = [name for name, denoiser in denoisers.items() if not any(_has_group_hook(m) for m in denoiser.modules())]
        elif self.name == "sequential":
            bare = [name for name, denoiser in denoisers.items() if not any(hasattr(m, "_hf_hook") for m in denoiser.modules())]
        else:
            bare = [name for name, denoiser in denoisers.items() if not hasattr(denoiser, "_hf_hook")]
        return [f"option offload {self.name!r} is not in force in {name}" for name in bare]


def _has_group_hook(module: Any) -> bool:
    return hasattr(module, "_diffusers_hook") and "group_offloading" in module._diffusers_hook.hooks
