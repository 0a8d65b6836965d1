"""How a video VAE decodes: in tiles, in slices of the batch, or split over the ranks of a replica.

Split over ranks, each rank decodes a strip of the picture, with some overlap. Strips lie along the longer side, have one size, and
are blended where they overlap. A VAE whose receptive field exceeds the overlap, such as one with attention over the whole picture, gives
nearly but not exactly the frames of one rank.

Shape letters: B batch, C channels, T frames, H height, W width, N pixels along the side that is split.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from configs.errors import ConfigError
from pipelines.diffusers.speedups.base import DiffusersOptions, Loaded, SpeedUp, Target
from pipelines.distributed.replica import Replica


class VaeTiling(SpeedUp):
    """Decodes a clip tile by tile: less memory."""

    option = "vae_tiling"
    entry = "vae_tiling"

    def apply(self, loaded: Loaded) -> None:
        _enable(loaded.pipe.vae, "enable_tiling", self)

    def effective(self, loaded: Loaded) -> None:
        return None

    def fallbacks(self, loaded: Loaded) -> list[str]:
        return [] if getattr(loaded.pipe.vae, "use_tiling", False) else ["the VAE does not tile"]


class VaeSlicing(SpeedUp):
    """Decodes the clips of a batch one after the other: less memory."""

    option = "vae_slicing"
    entry = "vae_slicing"

    def apply(self, loaded: Loaded) -> None:
        _enable(loaded.pipe.vae, "enable_slicing", self)

    def effective(self, loaded: Loaded) -> None:
        return None

    def fallbacks(self, loaded: Loaded) -> list[str]:
        return [] if getattr(loaded.pipe.vae, "use_slicing", False) else ["the VAE does not slice"]


class VaeSplit(SpeedUp):
    """Splits the decoding over the ranks of a replica."""

    option = "vae_split"
    entry = "vae"

    def __init__(self, options: DiffusersOptions) -> None:
        super().__init__(options)
        self._decode: SplitDecode | None = None
        if options.vae_overlap < 0:
            raise ConfigError(f"pipeline 'diffusers_t2v': vae_overlap must be at least 0, got {options.vae_overlap}.")

    def check(self, target: Target) -> None:
        if self.options.replica.size == 1:
            raise ConfigError(
                "pipeline 'diffusers_t2v': option 'vae_split' needs replicas of several ranks (parallel.cfg or .context). Leave it out."
            )

    def apply(self, loaded: Loaded) -> None:
        self._decode = SplitDecode(loaded.pipe.vae, self.options.replica, self.options.vae_overlap)

    def effective(self, loaded: Loaded) -> str | None:
        return f"split over {self.options.replica.size} ranks" if self._decode and self._decode.num_split else None

    def fallbacks(self, loaded: Loaded) -> list[str]:
        return [] if self.effective(loaded) else ["option vae_split: no clip was decoded by several ranks"]


def _enable(vae: Any, method: str, speed_up: SpeedUp) -> None:
    if not hasattr(vae, method):
        raise ConfigError(f"model {speed_up.options.model!r} has a VAE that does not support option {speed_up.option!r}. Leave it out.")
    getattr(vae, method)()


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
