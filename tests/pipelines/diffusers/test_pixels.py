"""Frames as pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipelines.diffusers.pixels import to_pixels


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pixels_are_rounded_as_numpy_rounds_them(device: str, dtype: torch.dtype) -> None:
    frames_BTCHW = torch.rand((2, 3, 3, 4, 5), generator=torch.Generator().manual_seed(0)).to(dtype)
    frames_BTCHW[0, 0, 0, 0] = torch.tensor([0.5 / 255, 1.5 / 255, -1.0, 2.0, 1.0])
    expected = np.rint(frames_BTCHW.float().numpy().clip(0, 1) * 255).astype(np.uint8).transpose(0, 1, 3, 4, 2)
    clips = to_pixels(frames_BTCHW.to(device))
    assert [clip.finite for clip in clips] == [True, True]
    assert np.array_equal([clip.pixels_THWC for clip in clips], expected)
    assert clips[0].pixels_THWC.flags.c_contiguous


def test_a_number_that_is_not_finite_is_black_and_named_in_its_own_clip() -> None:
    frames_BTCHW = torch.ones(2, 1, 3, 1, 2)
    frames_BTCHW[1, 0, :, 0, 1] = torch.nan
    clips = to_pixels(frames_BTCHW)
    assert [clip.finite for clip in clips] == [True, False]
    assert clips[1].pixels_THWC.tolist() == [[[[255, 255, 255], [0, 0, 0]]]]
