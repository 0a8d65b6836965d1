from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from configs.load_config import parse_config
from configs.settings import Canary
from metrics.base import Run
from metrics.validity.canaries import TEXT_CANARIES, VIDEO_CANARIES, failures, loosened, scan
from metrics.validity.video_canaries import check_video
from tests.conftest import record
from workloads.world.scenes import caption, render, sample_scene

MakeRun = Callable[..., Run]


def test_clips_of_the_world_trigger_nothing() -> None:
    rng = np.random.default_rng(0)
    for i in range(40):
        scene = sample_scene(rng, "rich" if i % 2 else "simple")
        moves = any(g.direction != "still" for g in scene.groups)
        assert check_video(render(scene, rng), moves) == [], caption(scene)


def test_each_spoiled_video_is_caught_by_name() -> None:
    rng = np.random.default_rng(0)
    clip = render(sample_scene(rng, "rich"), rng)
    assert check_video(np.zeros_like(clip)) == ["black"]
    assert check_video(np.repeat(clip[:1], 9, axis=0)) == ["frozen"]
    assert check_video(rng.integers(0, 256, clip.shape).astype(np.uint8)) == ["noise"]
    assert check_video(np.repeat(rng.integers(0, 256, clip[:1].shape), 9, axis=0).astype(np.uint8)) == ["frozen", "noise"]


def test_a_still_video_is_right_where_the_prompt_asks_for_it() -> None:
    rng = np.random.default_rng(0)
    still = np.repeat(render(sample_scene(rng, "simple"), rng)[:1], 9, axis=0)
    assert check_video(still, expects_motion=False) == []


def _chessboard(dark: int, light: int) -> NDArray[np.uint8]:
    """Nine frames alike, of pixels whose spread is half the difference."""
    board = np.where(np.indices((24, 24)).sum(0) % 2, light, dark)
    return np.repeat(np.repeat(board[None, :, :, None], 9, axis=0), 3, axis=-1).astype(np.uint8)


@pytest.mark.parametrize(("dark", "light", "black"), [(16, 16, True), (17, 17, False), (0, 3, True), (0, 4, False)])
def test_black_is_at_most_16_with_a_spread_below_2(dark: int, light: int, black: bool) -> None:
    assert check_video(_chessboard(dark, light), expects_motion=False) == (["black"] if black else [])


@pytest.mark.parametrize(("change", "frozen"), [(1, True), (2, False)])
def test_a_video_is_frozen_while_no_pixel_changes_by_more_than_1(change: int, frozen: bool) -> None:
    video = np.full((9, 24, 24, 3), 100, np.uint8)
    video[5, 3, 7, 1] += change
    assert check_video(video) == (["frozen"] if frozen else [])


@pytest.mark.parametrize(("grain", "moved", "frozen"), [(3, 0, True), (20, 0, True), (3, 1, False), (20, 8, False)])
def test_a_still_with_grain_is_frozen_but_not_a_moving_one(grain: float, moved: int, frozen: bool) -> None:
    rng = np.random.default_rng(0)
    still = render(sample_scene(rng, "simple"), rng)[:1]
    video = np.concatenate([np.roll(still, moved * t, axis=2) for t in range(9)]) + rng.normal(0, grain, (9, *still.shape[1:]))
    assert check_video(np.clip(video, 0, 255).astype(np.uint8)) == (["frozen"] if frozen else [])


def _of_correlation(share: float, spread: float) -> NDArray[np.uint8]:
    """A ramp and noise over it: the ramp is that share of the variance, and so the correlation of neighbours."""
    rng, ramp = np.random.default_rng(0), np.linspace(-1, 1, 128)[:, None] * np.sqrt(3)
    grey = 128 + spread * (np.sqrt(share) * ramp + np.sqrt(1 - share) * rng.standard_normal((3, 128, 128)))
    return np.repeat(np.rint(grey)[..., None], 3, axis=-1).astype(np.uint8)


@pytest.mark.parametrize(("share", "spread", "noise"), [(0.32, 20, True), (0.38, 20, False), (0, 4.2, True), (0, 3.8, False)])
def test_noise_has_a_correlation_below_0_35_and_a_spread_above_4(share: float, spread: float, noise: bool) -> None:
    assert check_video(_of_correlation(share, spread), expects_motion=False) == (["noise"] if noise else [])


@pytest.mark.parametrize(("light", "noise"), [(108, []), (110, ["noise"])])
def test_a_spread_of_4_is_not_judged_yet(light: int, noise: list[str]) -> None:
    assert check_video(_chessboard(100, light), expects_motion=False) == noise


def test_what_the_pixels_cannot_show_is_caught_from_the_records(make_run: MakeRun) -> None:
    rng = np.random.default_rng(0)
    run = make_run([render(sample_scene(rng, "rich"), rng) for _ in range(2)])
    first, second = run.records
    records = [
        record(0, media=second.media, finite=False, digest="aa"),
        record(1, media="media/gone.mkv", digest="bb"),
        record(2, media=first.media, digest="cc"),
        record(3, media=first.media, digest="cc"),
    ]
    samples = [*run.samples, *run.samples]
    samples = [type(s)(i, f"prompt {i}") for i, s in enumerate(samples)]
    found = scan(Run(run.folder, run.config, run.workload, samples, records, {}))
    assert found == {
        "query 0": ["nan"],
        "query 1": ["unreadable"],
        "query 2": ["identical"],
        "query 3": ["identical"],
    }


@pytest.mark.parametrize("content", [b"", b"not a video", b"\x1a\x45\xdf\xa3 cut"])
def test_a_corrupt_file_is_unreadable_not_a_crash(make_run: MakeRun, content: bytes) -> None:
    rng = np.random.default_rng(0)
    run = make_run([render(sample_scene(rng, "rich"), rng)])
    assert run.records[0].media
    (run.folder / run.records[0].media).write_bytes(content)
    assert scan(run) == {"query 0": ["unreadable"]}


def test_every_canary_can_be_named() -> None:
    assert set(get_args(Canary)) == {*VIDEO_CANARIES, *TEXT_CANARIES}


def test_a_canary_tolerates_what_the_configuration_says(make_run: MakeRun) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (2, 24, 24, 3), dtype=np.uint8)
    run = make_run([noise, render(sample_scene(rng, "simple"), rng)])
    triggered = scan(run)
    for canaries, triggers, listed in (
        ({}, True, {}),
        ({"noise": False}, False, {"noise": "off"}),
        ({"noise": 0.5}, False, {"noise": "0.5"}),
        ({"noise": 0.4}, True, {"noise": "0.4"}),
        ({"black": "off", "looping": "off"}, True, {"black": "off"}),
    ):
        config = parse_config({"workload": "t2v", "pipeline": {"name": "toy_t2v"}, "canaries": canaries}, "test")
        changed = replace(run, config=config)
        assert ("noise" in failures(changed, triggered)) == triggers
        assert loosened(changed) == listed
