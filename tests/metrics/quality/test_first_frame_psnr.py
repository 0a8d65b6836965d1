"""The first frame against the given image, on videos made by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from metrics.base import Run
from metrics.quality.first_frame_psnr import FirstFramePsnr
from tests.conftest import record
from workloads.records import Sample
from workloads.vlm import encode_png

GREY = np.full((16, 16, 3), 100, np.uint8)


def given(run: Run, *images: Any) -> Run:
    """The run with these images to begin with; None is a sample without one, b"" one whose file has gone."""
    files = [() if i is None else (i,) if isinstance(i, bytes) else encode_png(i[None]) for i in images]
    return dataclasses.replace(run, samples=[Sample(n, f"prompt {n}", {}, f) for n, f in enumerate(files)])


def test_it_is_the_psnr_of_the_first_frame_alone(make_run: Callable[..., Run]) -> None:
    video = np.stack([GREY, GREY * 2, GREY // 2])
    run = given(make_run([video, video + 10, 255 - video]), GREY, GREY, GREY)
    scores = FirstFramePsnr().scores(run)
    assert scores[0]["first_frame_psnr"] == 100  # of equal frames
    assert scores[1]["first_frame_psnr"] == pytest.approx(20 * np.log10(255 / 10), abs=1e-4)
    assert scores[2]["first_frame_psnr"] == pytest.approx(20 * np.log10(255 / 55), abs=1e-4)


def test_an_image_of_another_size_is_fitted_as_pipelines_fit_it(make_run: Callable[..., Run]) -> None:
    wide = np.full((32, 64, 3), 100, np.uint8)
    wide[:, :12] = wide[:, -12:] = 0  # cut off
    run = given(make_run([np.repeat(GREY[None], 3, axis=0)]), wide)
    assert FirstFramePsnr().scores(run)[0]["first_frame_psnr"] == 100


def test_a_failed_answer_scores_0_and_a_sample_without_an_image_has_no_score(make_run: Callable[..., Run]) -> None:
    run = given(make_run(records=[record(0, status="failed"), record(1), record(2)]), GREY, None, b"")
    assert FirstFramePsnr().scores(run) == {0: {"first_frame_psnr": 0.0}}
    assert FirstFramePsnr().compute(run)["first_frame_psnr"].unit == "dB"
