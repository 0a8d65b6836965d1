"""PSNR and SSIM of two videos."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Video = NDArray[np.uint8]

SAME_PSNR = 100.0  # dB, for equal videos
WINDOW, SIGMA = 11, 1.5
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
LUMA = (0.299, 0.587, 0.114)  # of red, green, blue; ITU-R BT.601


def psnr(one_THWC: Video, two_THWC: Video) -> float:
    """Peak signal-to-noise ratio over all pixels and frames, dB; SAME_PSNR at most."""
    error = float(np.mean((one_THWC.astype(np.float32) - two_THWC.astype(np.float32)) ** 2))
    return min(SAME_PSNR, 10 * math.log10(255**2 / error)) if error else SAME_PSNR


def ssim(one_THWC: Video, two_THWC: Video) -> float:
    """Structural similarity of the luma, mean over the frames; 1 for equal videos.

    Wang et al., Image quality assessment: from error visibility to structural similarity, 2004: a Gaussian window of 11 x 11 pixels
    with sigma 1.5, K1 .01, K2 .03, only where the window lies inside the frame; no reduction in size. Raises ValueError for frames that
    are smaller than the window.
    """
    if min(one_THWC.shape[1:3]) < WINDOW:
        raise ValueError(f"frames of {one_THWC.shape[1]} x {one_THWC.shape[2]} are smaller than its window of {WINDOW}")
    return float(np.mean([_ssim(_luma(one_HWC), _luma(two_HWC)) for one_HWC, two_HWC in zip(one_THWC, two_THWC, strict=True)]))


def _luma(frame_HWC: Video) -> NDArray[np.float64]:
    luma_HW: NDArray[np.float64] = frame_HWC @ np.array(LUMA)
    return luma_HW


def _ssim(one_HW: NDArray[np.float64], two_HW: NDArray[np.float64]) -> float:
    mean_one, mean_two = _blurred(one_HW), _blurred(two_HW)
    var_one = _blurred(one_HW * one_HW) - mean_one * mean_one
    var_two = _blurred(two_HW * two_HW) - mean_two * mean_two
    shared = _blurred(one_HW * two_HW) - mean_one * mean_two
    alike = (2 * mean_one * mean_two + C1) * (2 * shared + C2)
    return float(np.mean(alike / ((mean_one**2 + mean_two**2 + C1) * (var_one + var_two + C2))))


def _blurred(values_HW: NDArray[np.float64]) -> NDArray[np.float64]:
    """Blurred by the window, where it lies inside the frame."""
    import cv2

    edge = WINDOW // 2
    blurred: NDArray[np.float64] = cv2.GaussianBlur(values_HW, (WINDOW, WINDOW), SIGMA)
    return blurred[edge:-edge, edge:-edge]
