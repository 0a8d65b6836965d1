"""A pipeline's frames as pixels: rounded on the device, so that a quarter of the bytes are copied from it.

Shape letters: B clips, T frames, C channels, H height, W width.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch


class Clip(NamedTuple):
    """pixels_THWC: uint8. finite: whether every number was."""

    pixels_THWC: Any
    finite: bool


def to_pixels(frames_BTCHW: torch.Tensor) -> list[Clip]:
    """Frames from 0 to 1, of diffusers' output type `pt`, in any dtype on any device. NaN becomes black."""
    finite_B = torch.stack([one.isfinite().all() for one in frames_BTCHW])
    # Not into pinned memory: clips are kept until their files are written, and each would pin its own.
    pixels_BTHWC = [_rounded(one).cpu() for one in frames_BTCHW]
    return [Clip(pixels.numpy(), finite) for pixels, finite in zip(pixels_BTHWC, finite_B.tolist(), strict=True)]


def _rounded(frames_TCHW: torch.Tensor) -> torch.Tensor:
    """(T, H, W, C), contiguous. Rounded in float32, as halves are to even."""
    frames = frames_TCHW.float().nan_to_num().clamp_(0, 1).mul_(255).round_()
    return frames.to(torch.uint8).permute(0, 2, 3, 1).contiguous()
