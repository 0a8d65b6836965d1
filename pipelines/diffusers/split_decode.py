"""A video VAE's decoding split over the ranks of a replica.

Each rank decodes a strip of the picture, with some overlap. Strips lie along the longer side, have one size, and are blended where they
overlap. A VAE whose receptive field exceeds the overlap, such as one with attention over the whole picture, gives nearly but not exactly
the frames of one rank.

Shape letters: B batch, C channels, T frames, H height, W width, N pixels along the side that is split.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from pipelines.distributed.replica import Replica


class SplitDecode:
    """Takes the place of a VAE's `decode`. Every rank of the replica must call it with the same latents; the leader gets the frames.

    overlap: latents on either side of a strip that its neighbour decodes too.
    """

    def __init__(self, vae: Any, replica: Replica, overlap: int) -> None:
        self._replica, self._overlap = replica, overlap
        self._decode = vae.decode
        self.num_split = 0  # decodings so far that were shared
        vae.decode = self.decode

    def decode(self, z: torch.Tensor, return_dict: bool = True, **kwargs: Any) -> Any:
        axis = -1 if z.shape[-1] >= z.shape[-2] else -2
        total, ranks = z.shape[axis], self._replica.size
        if total < ranks:
            raise RuntimeError(f"latents of {total} along the longer side cannot be split over {ranks} ranks. Leave out vae_split.")
        starts, size = strips(total, ranks, self._overlap)
        mine = z.narrow(axis, starts[self._replica.position], size)
        frames = self._decode(mine, return_dict=False, **kwargs)[0].contiguous()
        parts = [torch.empty_like(frames) for _ in range(ranks)]
        dist.all_gather(parts, frames, group=self._replica.group)
        self.num_split += 1
        factor = frames.shape[axis] // size
        merged = merge(parts, [start * factor for start in starts], total * factor, axis)
        if not return_dict:
            return (merged,)
        from diffusers.models.autoencoders.vae import DecoderOutput

        return DecoderOutput(sample=merged)


def strips(total: int, ranks: int, overlap: int) -> tuple[list[int], int]:
    """The start of each rank's strip, and the length of all: a share and the overlap, moved inwards at the edges."""
    share = -(-total // ranks)
    size = min(total, share + 2 * overlap)
    return [min(max(rank * share - overlap, 0), total - size) for rank in range(ranks)], size


def merge(parts: list[torch.Tensor], starts: list[int], total: int, axis: int) -> torch.Tensor:
    """Blend the parts, each from its start, with linear ramps over what it shares with its neighbours."""
    size = parts[0].shape[axis]
    shape = list(parts[0].shape)
    shape[axis] = total
    merged = parts[0].new_zeros(shape, dtype=torch.float32)
    weights_N = torch.zeros(total, device=merged.device)
    ends = [start + size for start in starts]
    for rank, (part, start, end) in enumerate(zip(parts, starts, ends, strict=True)):
        ramp_N = torch.ones(size, device=merged.device)
        if rank > 0 and (shared := ends[rank - 1] - start) > 0:
            ramp_N[:shared] = (torch.arange(shared, device=merged.device) + 0.5) / shared
        if rank + 1 < len(starts) and (shared := end - starts[rank + 1]) > 0:
            ramp_N[-shared:] = torch.minimum(ramp_N[-shared:], 1 - (torch.arange(shared, device=merged.device) + 0.5) / shared)
        column = ramp_N.view(-1, *[1] * (-axis - 1))
        merged.narrow(axis, start, size).add_(part * column)
        weights_N[start:end] += ramp_N
    return (merged / weights_N.view(-1, *[1] * (-axis - 1))).to(parts[0].dtype)
