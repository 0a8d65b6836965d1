"""Replicas: groups of ranks that hold one copy of the model each, and answer queries together.

A replica's first rank leads: it alone takes queries, and sends them to the others. Ranks of a replica have consecutive
numbers, so that they share a node where they can; the tensor axis varies fastest, then context, then cfg.
Messages within a replica go over gloo, on the CPU, as bytes: never pickle, and never on the device's stream.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from configs.errors import ConfigError, RunError
from configs.settings import ParallelSettings

if TYPE_CHECKING:
    import torch
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh

AXES = ("replica", "cfg", "ring", "ulysses", "tensor")
LONGEST_WAIT = timedelta(days=30)  # a follower waits as long as there are no queries; it learns at once that its leader died


@dataclass(frozen=True)
class Replica:
    """The group of ranks that this rank belongs to; one rank by default, without torch.distributed.

    position: of this rank in `ranks`; 0 leads. mesh: all ranks of the run along AXES, None where a replica is one rank. group: its ranks,
    for tensors on their devices; messages: the same for bytes.
    """

    settings: ParallelSettings = field(default_factory=lambda: ParallelSettings.model_validate({}))
    ranks: tuple[int, ...] = (0,)
    position: int = 0
    mesh: DeviceMesh | None = field(default=None, repr=False)
    group: ProcessGroup | None = field(default=None, repr=False)
    messages: ProcessGroup | None = field(default=None, repr=False)

    @property
    def size(self) -> int:
        return len(self.ranks)

    @property
    def leads(self) -> bool:
        return self.position == 0

    @property
    def name(self) -> str:
        return f"the replica of ranks {', '.join(map(str, self.ranks))}"

    def tell(self, message: bytes) -> None:
        """Send a message from the leader to its followers; does nothing where there are none. Raises RunError where one is gone."""
        if self.size > 1:
            import torch

            assert self.leads
            self._broadcast(torch.tensor([len(message)]))
            if message:
                self._broadcast(torch.frombuffer(bytearray(message), dtype=torch.uint8))

    def hear(self) -> bytes:
        """The leader's next message; waits for it. Raises RunError where the leader is gone."""
        import torch

        assert not self.leads
        length = torch.zeros(1, dtype=torch.int64)
        self._broadcast(length)
        message = torch.zeros(int(length), dtype=torch.uint8)
        if len(message):
            self._broadcast(message)
        return message.numpy().tobytes()

    def _broadcast(self, tensor: torch.Tensor) -> None:
        import torch.distributed as dist

        try:
            dist.broadcast(tensor, src=self.ranks[0], group=self.messages)
        except RuntimeError as error:
            raise RunError(f"{self.name} is broken: the process of one of them ended") from error


def check_parallelism(settings: ParallelSettings, pipeline_name: str, abilities: Sequence[str]) -> None:
    """Refuse axes that the pipeline does not support, and a number of ranks that makes no whole replicas. Needs no other rank.

    Raises ConfigError.
    """
    for axis in settings.active:
        if axis not in abilities:
            known = ", ".join(f"parallel.{a}" for a in abilities) or "no parallel.* option: each rank holds a whole model"
            raise ConfigError(
                f"pipeline {pipeline_name!r} does not support 'parallel.{axis}' (it is {getattr(settings, axis)}); it supports {known}"
            )
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size % settings.size:
        factors = " x ".join(f"{axis} {getattr(settings, axis)}" for axis in settings.active)
        raise ConfigError(
            f"{world_size} ranks cannot be split into replicas of {settings.size} ({factors}): "
            f"launch a multiple of {settings.size} processes, or change parallel.*"
        )


def join_replica(settings: ParallelSettings, rank: int, world_size: int, device: torch.device) -> Replica:
    """This rank's replica. Every rank of the run must call it, once, after torch.distributed is initialised."""
    if settings.size == 1:
        return Replica(settings, (rank,))
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    num_replicas = world_size // settings.size
    ring, ulysses = (settings.context, 1) if settings.context_kind == "ring" else (1, settings.context)
    shape = (num_replicas, settings.cfg, ring, ulysses, settings.tensor)
    assert math.prod(shape) == world_size
    mesh: Any = init_device_mesh(device.type, shape, mesh_dim_names=AXES)
    groups = [tuple(range(i * settings.size, (i + 1) * settings.size)) for i in range(num_replicas)]
    within = [dist.new_group(list(ranks)) for ranks in groups]  # all ranks make all of them
    channels = [dist.new_group(list(ranks), timeout=LONGEST_WAIT, backend="gloo") for ranks in groups]
    mine = rank // settings.size
    return Replica(settings, groups[mine], rank % settings.size, mesh, within[mine], channels[mine])
