"""transformers' tensor parallelism within a replica."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from unittest import mock

from configs.errors import ConfigError
from pipelines.distributed.replica import Replica

if TYPE_CHECKING:
    import torch


@contextlib.contextmanager
def sharded(replica: Replica, device: torch.device) -> Iterator[dict[str, Any]]:
    """Arguments for `from_pretrained`, with which each rank of the replica gets its share of the weights; none for one rank.

    transformers 5.23 makes the whole world one tensor-parallel group (distributed/utils.py, initialize_distributed_mesh). Within this
    context its mesh is replaced by one with a group for each replica.
    """
    if replica.size == 1:
        yield {}
        return
    from torch.distributed.device_mesh import init_device_mesh
    from transformers.distributed import mixin
    from transformers.distributed.configuration_utils import DistributedConfig
    from transformers.distributed.utils import TransformersDeviceMesh

    assert replica.mesh is not None
    size = replica.settings.tensor
    shape = (1, replica.mesh.size() // size, 1, size)  # ranks of a replica follow each other, as in the last axis
    mesh = init_device_mesh(device.type, shape, mesh_dim_names=("pp", "dp_replicate", "fsdp", "tp"))
    with mock.patch.object(mixin, "initialize_distributed_mesh", return_value=(device, TransformersDeviceMesh(mesh, mesh))):
        yield {"distributed_config": DistributedConfig(tp_size=size)}


def check_heads(config: Any, size: int, model: str) -> None:
    """Raises ConfigError where the attention heads, or those of keys and values, cannot be divided among the ranks."""
    text = config.get_text_config()
    num_heads = text.num_attention_heads
    num_kv_heads = getattr(text, "num_key_value_heads", None) or num_heads
    if num_heads % size or num_kv_heads % size:
        raise ConfigError(
            f"parallel.tensor is {size}, but model {model!r} has {num_heads} attention heads and {num_kv_heads} key-value heads; "
            "give a divisor of both"
        )
