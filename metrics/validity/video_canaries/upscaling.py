"""Whether a video was enlarged from fewer pixels, as by nearest, bilinear or bicubic interpolation.

Enlarging makes every pixel a weighted sum of a few pixels of the small video. The weights repeat from pixel to pixel with the period of the
factor: 2 for x2, 3 for x3 and x1.5, and so on. A linear predictor of a pixel from its neighbours in the row that is fitted to each phase of
the period then leaves much less than one that is fitted to all pixels. In other videos it leaves as much.

Whatever is the same in all frames is subtracted first: a drawn pattern at rest can have a period of its own. Predictors are fitted to one
half of the picture and tested on the other one. Both directions must show it, each with a period of its own, because shapes that move along
one axis keep their edges on the other; one direction suffices where nearly all pixels change.
Source: Popescu and Farid, Exposing Digital Forgeries by Detecting Traces of Resampling (2005), where one predictor is fitted to a subset.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

# Measured in benchmarks/audits/video_canaries.py. A small clip of a few shapes has few edges, which may share a phase by chance.
LIMIT, LIMIT_SMALL, SMALL = 0.5, 0.3, 128  # of the remaining error; pixels of the shorter side
# Of videos that change nearly everywhere, as filmed ones do: the error left in one direction alone, and the difference of two halves, as a
# share of what unrelated ones have.
MOSTLY_CHANGING, LIMIT_ONE, COPIED = 0.75, 0.3, 0.05
REACH = 4  # pixels on each side that predict one
PERIODS = (2, 3, 4, 5)
FACTOR, PHASES, LARGE = 1280 / 832, 6, 400  # from 480p to 720p: its period of 20 is too long, so in 6 phases; pixels of the shorter side
BAND = 8  # lines, in turn of the fitted half and of the tested one
MIN_COLUMNS = 10  # of each phase
MIN_SIDE = 32  # pixels
MAX_FRAMES, MAX_LINES = 12, 120  # that are examined, spread evenly: they bound the time
MIN_CHANGING, CHANGE = 0.25, 1.0  # share of the pixels that change by more than so many grey levels: flat drawings have few edges
MIN_ERROR = 0.05  # squared grey levels of 255 that one predictor must leave; less is the rounding of flat areas
RIDGE = 0.02  # squared grey levels: the rounding to whole numbers
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # codecs store colours at half the size, which is not an enlarged video

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


def is_upscaled(video_THWC: NDArray[np.uint8]) -> bool:
    """Whether the video was enlarged, or half of it is a copy or the mirror image of the other half. False where that cannot be said."""
    luma_THW = _changes(video_THWC)
    if luma_THW is None:
        return False
    errors = [error for error in _errors(luma_THW) if error is not None]
    limit = LIMIT_SMALL if min(luma_THW.shape[1:]) < SMALL else LIMIT
    in_both = len(errors) == 2 and max(errors) < limit
    if in_both or _share_changing(luma_THW) < MOSTLY_CHANGING:
        return in_both
    return (bool(errors) and min(errors) < LIMIT_ONE) or _has_copied_half(luma_THW - luma_THW.mean((1, 2), keepdims=True))


def remaining_error(video_THWC: NDArray[np.uint8]) -> float | None:
    """What predictors for each phase leave of the squared error of one for all pixels: near 0 of an enlarged video, near 1 of others.

    Of the direction in which it is larger. None where that cannot be said: fewer than 3 frames or 32 pixels a side, or a flat video, or one
    in which little changes.
    """
    luma_THW = _changes(video_THWC)
    errors = [None] if luma_THW is None else _errors(luma_THW)
    known = [error for error in errors if error is not None]
    return max(known) if len(known) == len(errors) else None


def _changes(video_THWC: NDArray[np.uint8]) -> Floats | None:
    """Luma of some frames without what is the same in all of them; None where too little is left to judge."""
    num_frames, height, width = video_THWC.shape[:3]
    if num_frames < 3 or min(height, width) < MIN_SIDE:
        return None
    frames = np.linspace(0, num_frames - 1, min(num_frames, MAX_FRAMES)).round().astype(int)
    luma_THW: Floats = video_THWC[frames] @ LUMA
    luma_THW -= luma_THW.mean(0)
    return luma_THW if _share_changing(luma_THW) >= MIN_CHANGING else None


def _share_changing(luma_THW: Floats) -> float:
    return float((np.abs(luma_THW).max(0) > CHANGE).mean())


def _errors(luma_THW: Floats) -> list[float | None]:
    return [min(_ratios(along), default=None) for along in (luma_THW, luma_THW.transpose(0, 2, 1))]


def _has_copied_half(luma_THW: Floats) -> bool:
    """Whether the right half moves as the left one does, or the lower as the upper one: equally or mirrored."""
    for along in (luma_THW, luma_THW.transpose(0, 2, 1)):
        half = along.shape[2] // 2
        first, second = along[..., :half], along[..., -half:]
        least = COPIED**2 * float((first**2).mean() + (second**2).mean())
        if any(float(((first - other) ** 2).mean()) < least for other in (second, second[..., ::-1])):
            return True
    return False


def _ratios(luma_TYX: Floats) -> Iterator[float]:
    """The remaining error along X, for each period; none where one predictor leaves next to nothing."""
    lines = luma_TYX[:, :: -(-luma_TYX.shape[1] // MAX_LINES)]
    band = np.arange(lines.shape[1]) // BAND % 2
    halves = [lines[:, band == half].reshape(-1, lines.shape[2]) for half in (0, 1)]
    products = [_products(half) for half in halves]
    columns = np.arange(len(products[0]))
    for period in PERIODS:
        yield from _ratio(products, columns % period)
    if min(luma_TYX.shape[1:]) >= LARGE:
        yield from _ratio(products, (PHASES * (columns / FACTOR % 1)).astype(int))
    # every second pixel of a video enlarged by 4 is one enlarged by 2, whose period smooth interpolation hides less
    even = luma_TYX.shape[2] // 2 * 2
    products = [_products(np.concatenate([half[:, 0:even:2], half[:, 1:even:2]])) for half in halves]
    yield from _ratio(products, np.arange(len(products[0])) % 2)


def _products(lines_NX: Floats) -> Doubles:
    """For each pixel of a line that has neighbours on both sides: the sums over lines of products of all pairs, itself in the middle.

    Divided by the number of lines.
    """
    windows_NXK = np.lib.stride_tricks.sliding_window_view(lines_NX, 2 * REACH + 1, axis=1)
    windows_XKN = np.ascontiguousarray(windows_NXK.transpose(1, 2, 0))
    return np.asarray(windows_XKN @ windows_XKN.transpose(0, 2, 1) / len(lines_NX), np.float64)


def _ratio(products: list[Doubles], phase_X: NDArray[np.intp]) -> Iterator[float]:
    if np.bincount(phase_X).min() < MIN_COLUMNS:
        return
    for_all = for_each = 0.0
    for fitted, tested in (products, products[::-1]):
        for_all += _error(fitted, tested)
        for_each += sum(_error(fitted[phase_X == phase], tested[phase_X == phase]) for phase in np.unique(phase_X))
    if for_all / (2 * len(phase_X)) >= MIN_ERROR:
        yield for_each / for_all


def _error(fitted_XKK: Doubles, tested_XKK: Doubles) -> float:
    """Squared error, over all columns, of the best linear predictor of one half in the other half."""
    fitted, tested = fitted_XKK.sum(0), tested_XKK.sum(0)
    others = [k for k in range(2 * REACH + 1) if k != REACH]
    square = np.ix_(others, others)
    weights = np.linalg.solve(fitted[square] + RIDGE * len(fitted_XKK) * np.eye(len(others)), fitted[others, REACH])
    return float(tested[REACH, REACH] - 2 * weights @ tested[others, REACH] + weights @ tested[square] @ weights)
