"""Scores of saved videos: the world's, and the ones that need no caption."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from metrics.base import Run
from metrics.quality.dynamic_degree import DynamicDegree
from metrics.quality.motion_smoothness import MotionSmoothness
from metrics.quality.optical_flow import flow
from metrics.quality.temporal_flickering import TemporalFlickering
from metrics.quality.world_score import WorldScore
from tests.conftest import record
from workloads.world.scenes import parse_caption, render

MakeRun = Callable[..., Run]
FAST, SLOW, STILL = "a red square moves quickly to the right", "a red square moves slowly to the right", "a red square stays still"


def clip(text: str, seed: int = 0) -> NDArray[np.uint8]:
    return render(parse_caption(text), np.random.default_rng(seed))


def test_flow_reads_a_known_shift() -> None:
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 255, (20, 20, 3)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
    moved = flow(texture, np.roll(texture, 3, axis=1))[40:-40, 40:-40]
    assert moved[..., 0].mean() == pytest.approx(3, abs=0.3)
    assert moved[..., 1].mean() == pytest.approx(0, abs=0.3)


def test_world_score_is_the_share_with_every_attribute_right(make_run: MakeRun) -> None:
    run = make_run([clip(FAST), clip(SLOW), clip(STILL)], [FAST, FAST.replace("red", "blue"), STILL], metas=[{"world": True}] * 3)
    figures = WorldScore().compute(run)
    assert figures["world_score"].value == pytest.approx(2 / 3)
    assert figures["world_speed"].value == pytest.approx(2 / 3)
    assert figures["world_shape"].value == 1.0
    assert figures["world_score"].ci95 == pytest.approx((0.2077, 0.9385), abs=1e-3)
    assert "world_background" not in figures


def test_a_failed_and_a_missing_video_score_0(make_run: MakeRun) -> None:
    run = make_run([clip(FAST)], [FAST, FAST, FAST], metas=[{"world": True}] * 3)
    records = [*run.records, record(1, status="failed"), record(2, media="media/gone.mkv")]
    figures = WorldScore().compute(Run(run.folder, run.config, run.workload, run.samples, records, {}))
    assert figures["world_score"].value == pytest.approx(1 / 3)
    assert figures["world_colour"].n == 3


def test_prompts_of_no_world_are_not_scored(make_run: MakeRun) -> None:
    assert WorldScore().compute(make_run([clip(FAST)], ["a cat"], metas=[{"world": False}])) == {}


def test_flicker_lowers_the_score_and_motion_does_not(make_run: MakeRun) -> None:
    steady = clip(FAST)
    light = np.where(np.arange(9) % 2, 20, 0).astype(np.uint8)[:, None, None, None]
    flickering = np.clip(steady.astype(int) + light, 0, 255).astype(np.uint8)
    scores = TemporalFlickering().scores(make_run([steady, flickering], [FAST, FAST]))
    assert scores[0]["temporal_flickering"] > 0.995
    assert scores[1]["temporal_flickering"] < 0.95


def test_flicker_of_a_pan_and_of_one_frame_is_undefined(make_run: MakeRun) -> None:
    """Nothing in them is still: they have no score, and do not count as the worst."""
    texture = np.random.default_rng(0).integers(0, 255, (12, 16, 3)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
    pan = np.stack([np.roll(texture, 4 * t, axis=1) for t in range(5)])
    run = make_run([pan, clip(FAST)[:1], clip(STILL)])
    assert TemporalFlickering().scores(run).keys() == {2}
    assert DynamicDegree().scores(run).keys() == MotionSmoothness().scores(run).keys() == {0, 2}
    undefined = TemporalFlickering().compute(replace(run, records=run.records[:2]))["temporal_flickering"]
    assert (undefined.value, undefined.n) == (None, 0)
    assert "undefined" in undefined.note
    failed = replace(run, records=[record(0, status="failed")])
    assert TemporalFlickering().compute(failed)["temporal_flickering"].value == 0.0


def test_intervals_of_shares_end_at_0_and_1(make_run: MakeRun) -> None:
    light = np.where(np.arange(9) % 2, 3, 0).astype(np.uint8)[:, None, None, None]
    run = make_run([clip(STILL), np.minimum(clip(FAST), 250) + light])
    for metric in (TemporalFlickering(), MotionSmoothness()):
        figure = metric.compute(run)[metric.name]
        assert figure.value is not None
        assert figure.ci95 is not None
        assert 0 <= figure.ci95[0] < figure.value < figure.ci95[1] <= 1


def test_a_jumping_object_is_less_smooth_than_a_gliding_one(make_run: MakeRun) -> None:
    glide = clip(SLOW)
    jump = glide.copy()
    jump[1::2] = np.roll(glide[1::2], 6, axis=1)
    scores = MotionSmoothness().scores(make_run([glide, jump], [SLOW, SLOW]))
    assert scores[0]["motion_smoothness"] > scores[1]["motion_smoothness"] + 0.02


def test_a_fast_video_is_dynamic_and_a_still_one_is_not(make_run: MakeRun) -> None:
    scores = DynamicDegree().scores(make_run([clip(FAST), clip(STILL)], [FAST, STILL]))
    assert scores[0]["dynamic_degree"] == 1.0
    assert scores[1]["dynamic_degree"] == 0.0
