"""Whether frames of a video are copies, or means, of others, so that fewer were made than are counted.

Frames are compared as means of blocks, about 64 a side, so that noise that is added to a copy counts little. Two kinds are found:

regular   in every period of 2 to 8 frames all steps but one are copies, or all frames but one are the mean of their neighbours
returning a quarter of the frames are copies of earlier ones, at any distance: frames repeated at random, loops, a part played backwards

Pictures in which most pixels stay as they are between two moves are drawn: what moves by less than a pixel a frame, drawn at whole pixels,
repeats frames regularly too, and a drawn loop returns. Of these only regular repeats between moves of more than one pixel are found.
A pause, a still end and a fade to one tone are none of it.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MIN_FRAMES = 9
BLOCKS = 64  # of the shorter side, at least
PERIODS = range(2, 9)
TOP = 99  # percentile over the blocks: what moves may be small
# Of regular steps: how large copies are at most, as a share of moves; how large moves are at least, of 255; how many moves there are.
COPY, COPY_MOVE, COPY_MOVES = 0.15, 4.0, 2
# Of the distance to the mean of the neighbours. B-frames of H.264 are such means too, but for the rest that is coded.
MEAN, MEAN_MOVE, MEAN_MOVES, MEAN_LEFT = 0.1, 6.0, 3, 1.0  # MEAN_LEFT: at most, of 255; rounding leaves 0.5
# Share of frames that return; their distance to an earlier frame, as a share of a usual move; which is at least so large, of 255.
RETURNING, RETURN, RETURN_MOVE = 0.25, 0.1, 1.0
FLAT = 4.0  # of 255: the spread of a frame of one tone
MOSTLY, BEYOND = 0.5, 0.1  # of the blocks; of the pixels that change

Floats = NDArray[np.float32]


def repeats_frames(video_THWC: NDArray[np.uint8]) -> bool:
    """Whether frames are repeated or interpolated. False for fewer than 9 frames, where chance would decide."""
    if len(video_THWC) < MIN_FRAMES:
        return False
    frames_TN = _block_means(video_THWC)
    steps_TN = np.abs(np.diff(frames_TN, axis=0))
    steps = np.percentile(steps_TN, TOP, axis=1)
    copies = _regular(steps, COPY, COPY_MOVE, COPY_MOVES)
    moves = steps > COPY * np.percentile(steps, 90)
    is_drawn = bool(np.median((steps_TN[moves] > 0).mean(1)) < MOSTLY) if moves.any() else True
    means = np.percentile(np.abs(frames_TN[1:-1] - (frames_TN[:-2] + frames_TN[2:]) / 2), TOP, axis=1)
    interpolated = _regular(means, MEAN, MEAN_MOVE, MEAN_MOVES, MEAN_LEFT)
    made = next((pattern.frames(len(frames_TN)) for pattern in (copies, interpolated) if pattern is not None), None)
    if made is not None and (not is_drawn or _leaves_its_pixels(video_THWC[made])):
        return True
    return not is_drawn and _share_returning(frames_TN, moves) >= RETURNING


def _block_means(video_THWC: NDArray[np.uint8]) -> Floats:
    import cv2

    height, width = video_THWC.shape[1:3]
    side = max(1, min(height, width) // BLOCKS)
    size = (width // side, height // side)
    small = [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) if side > 1 else frame for frame in video_THWC]
    return np.asarray(np.stack(small), np.float32).reshape(len(video_THWC), -1)


class _Pattern(NamedTuple):
    """A value is large at every `period`, from `phase` on."""

    period: int
    phase: int

    def frames(self, num_frames: int) -> NDArray[np.intp]:
        """The frames that were made. A large step leads to one, a frame far from the mean of its neighbours is one."""
        return np.arange(self.phase + 1, num_frames, self.period)


def _regular(values: NDArray[np.floating], share: float, least: float, count: int, most: float = np.inf) -> _Pattern | None:
    """Where nearly all values are small but those of one phase of a period; None where there is no such period."""
    for period in PERIODS:
        for phase in range(period):
            large = np.arange(len(values)) % period == phase
            if large.sum() < count or (~large).sum() < MIN_FRAMES // 3:
                continue
            low = float(np.percentile(values[~large], 90, method="higher"))
            high = float(np.percentile(values[large], 10, method="lower"))
            if high >= least and low <= min(share * high, most):
                return _Pattern(period, phase)
    return None


def _leaves_its_pixels(made_THWC: NDArray[np.uint8]) -> bool:
    """Whether a frame has changed pixels to what none of their neighbours was in the one before."""
    import cv2

    kernel = np.ones((3, 3), np.uint8)
    beyond = changed = 0
    for before, after in itertools.pairwise(made_THWC):
        is_beyond = (after > cv2.dilate(before, kernel)) | (after < cv2.erode(before, kernel))
        beyond += int(is_beyond.any(-1).sum())
        changed += int((before != after).any(-1).sum())
    return beyond > BEYOND * changed


def _share_returning(frames_TN: Floats, moves: NDArray[np.bool_]) -> float:
    """Share of frames that are copies of an earlier one, after a move away or between two moves."""
    deep_TN = frames_TN - frames_TN.mean(0, dtype=np.float64)
    squares = (deep_TN**2).sum(1)
    distances = np.sqrt(np.maximum(squares[:, None] + squares[None] - 2 * deep_TN @ deep_TN.T, 0) / deep_TN.shape[1])
    usual = float(np.percentile(np.diagonal(distances, 1), 75))
    if usual < RETURN_MOVE:
        return 0.0
    found = 0
    for at in range(1, len(frames_TN)):
        if frames_TN[at].std() < FLAT:
            continue
        like = np.flatnonzero(distances[at, :at] < RETURN * usual)
        moved_away = any((distances[earlier, earlier:at] > usual / 2).any() for earlier in like)
        pause = moves[: at - 1].any() and moves[at : at + max(PERIODS) - 1].any() and moves[max(at - max(PERIODS), 0) : at - 1].any()
        found += bool(len(like)) and (moved_away or bool(pause and like[-1] == at - 1))
    return found / len(frames_TN)
