"""Dense optical flow between frames by OpenCV, without a model."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metrics.base import Run
from workloads.records import Record
from workloads.run_folder.media import read_video


def flow(first_HWC: NDArray[np.uint8], second_HWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Motion in pixels from the first frame to the second, flow_HW2 as x, y.

    DIS flow at its finest preset. Source: Kroeger et al., Fast Optical Flow using Dense Inverse Search (2016). Frames
    under 128 pixels are enlarged first, because its patches have 8 pixels.
    """
    import cv2

    factor = max(1, -(-128 // min(first_HWC.shape[:2])))
    grey = [_grey(frame, factor) for frame in (first_HWC, second_HWC)]
    found: NDArray[np.float32] = _dis().calc(grey[0], grey[1], None)
    if factor > 1:
        found = cv2.resize(found, first_HWC.shape[1::-1], interpolation=cv2.INTER_AREA) / factor
    return np.asarray(found, np.float32)


def flows(run: Run, record: Record) -> NDArray[np.float32]:
    """Flow from each frame of the saved video to the next, flow_THW2 with one frame fewer; cached for the next metric."""
    assert record.media is not None
    return _flows(run.folder / record.media)


def warp(frame_HWC: NDArray[np.uint8], by_HW2: NDArray[np.float32]) -> NDArray[np.float32]:
    """The frame's pixel at x + by, for every x: bilinear, edges repeated."""
    import cv2

    y, x = np.mgrid[: frame_HWC.shape[0], : frame_HWC.shape[1]].astype(np.float32)
    moved = cv2.remap(
        frame_HWC.astype(np.float32), x + by_HW2[..., 0], y + by_HW2[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(moved, np.float32)


def _grey(frame_HWC: NDArray[np.uint8], factor: int) -> Any:
    import cv2

    grey = cv2.cvtColor(np.ascontiguousarray(frame_HWC), cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC) if factor > 1 else grey


@functools.lru_cache(maxsize=1024)
def _flows(path: Path) -> NDArray[np.float32]:
    video = read_video(path)
    found = np.zeros((len(video) - 1, *video.shape[1:3], 2), np.float32)
    for t, (before, after) in enumerate(itertools.pairwise(video)):
        found[t] = flow(before, after)
    return found


@functools.cache
def _dis() -> Any:
    import cv2

    return cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
