"""Canaries that examine the pixels of a video alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from metrics.validity.video_canaries.repeated_frames import repeats_frames
from metrics.validity.video_canaries.upscaling import is_upscaled

BLACK_LEVEL, FLAT_SPREAD = 16, 2.0  # of 255
FROZEN_CHANGE = 1  # of 255: the largest change of any pixel in a frozen video
GRAIN_CORRELATION = 0.2  # of neighbours in the changes between frames; measured: benchmarks/audits/canary_margins.py
NOISE_CORRELATION = 0.35  # of neighbours; natural and drawn videos are above 0.8
MIN_SPREAD = 4.0  # of 255: a flatter video has no texture to judge


def check_video(video_THWC: NDArray[np.uint8], expects_motion: bool = True) -> list[str]:
    """The canaries that the pixels of a video trigger."""
    found = []
    spread = float(video_THWC.std(axis=(1, 2)).max())
    is_noise = spread > MIN_SPREAD and _neighbour_correlation(video_THWC) < NOISE_CORRELATION
    if int(video_THWC.max()) <= BLACK_LEVEL and spread < FLAT_SPREAD:
        found.append("black")
    elif expects_motion:
        change = int(np.abs(np.diff(video_THWC.astype(np.int16), axis=0)).max(initial=0))
        found += ["frozen"] if change <= FROZEN_CHANGE or (not is_noise and grain_correlation(video_THWC) < GRAIN_CORRELATION) else []
    found += ["noise"] if is_noise else []
    found += ["repeated_frames"] if repeats_frames(video_THWC) else []
    found += ["upscaled"] if is_upscaled(video_THWC) else []
    return found


def grain_correlation(video_THWC: NDArray[np.uint8]) -> float:
    """The largest correlation of neighbours in the changes from the first frame to another; 1 where nothing changes.

    It is 1 for a video of one frame and for one that begins with a flat frame, too: neither shows whether it moves.
    """
    others = sorted({1, len(video_THWC) // 2, len(video_THWC) - 1} - {0})
    if len(video_THWC) < 2 or float(video_THWC[0].std(axis=(0, 1)).max()) <= MIN_SPREAD:
        return 1.0
    changes = video_THWC[others].astype(np.float32) - video_THWC[:1]
    return max(_neighbour_correlation(change[None]) if float(change.std()) > 0 else 1.0 for change in changes)


def _neighbour_correlation(video_THWC: NDArray[Any]) -> float:
    """Mean correlation of a pixel with the one right of it and the one below."""
    grey = video_THWC.mean(-1)
    pairs = ((grey[:, :, :-1], grey[:, :, 1:]), (grey[:, :-1], grey[:, 1:]))
    return float(np.mean([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in pairs]))
