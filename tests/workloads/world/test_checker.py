from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from workloads.world.checker import check_clip, read_background, read_clip
from workloads.world.scenes import BACKGROUND_PERIOD, COLOURS, Grade, Group, Scene, caption, coverage, render, sample_scene

Clip = NDArray[np.uint8]


def _clips(grade: Grade, count: int, seed: int) -> list[tuple[Scene, str, Clip]]:
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(count):
        scene = sample_scene(rng, grade)
        drawn.append((scene, caption(scene, rng), render(scene, rng)))
    return drawn


def _passes(clips: list[tuple[str, Clip]]) -> float:
    return sum(all(check_clip(clip, text).values()) for text, clip in clips) / len(clips)


@pytest.mark.parametrize("grade", ["simple", "rich"])
def test_every_attribute_of_rendered_clips_is_read_right(grade: Grade) -> None:
    verdicts = [check_clip(clip, text) for _, text, clip in _clips(grade, 36, 11)]
    for attribute in verdicts[0]:
        assert sum(v[attribute] for v in verdicts) >= 35, attribute


@pytest.mark.parametrize("grade", ["simple", "rich"])
def test_captions_of_other_clips_fail(grade: Grade) -> None:
    clips = _clips(grade, 12, 12)
    assert _passes([(clips[i - 1][1], clips[i][2]) for i in range(len(clips))]) == 0


@pytest.mark.parametrize("grade", ["simple", "rich"])
def test_blurred_clips_fail(grade: Grade) -> None:
    def blur(clip: Clip) -> Clip:
        return np.asarray(ndimage.gaussian_filter(clip.astype(float), (0, 3, 3, 0)), np.uint8)

    assert _passes([(text, blur(clip)) for _, text, clip in _clips(grade, 12, 13)]) == 0


@pytest.mark.parametrize("grade", ["simple", "rich"])
def test_noised_clips_fail(grade: Grade) -> None:
    rng = np.random.default_rng(0)

    def noise(clip: Clip) -> Clip:
        return np.clip(clip + rng.normal(0, 40, clip.shape), 0, 255).astype(np.uint8)

    assert _passes([(text, noise(clip)) for _, text, clip in _clips(grade, 12, 14)]) == 0


def test_frozen_clips_fail_where_motion_is_stated() -> None:
    moving = [(t, c) for s, t, c in _clips("simple", 40, 15) if s.groups[0].direction != "still"]
    verdicts = [check_clip(np.repeat(clip[:1], len(clip), axis=0), text) for text, clip in moving]
    assert not any(v["direction"] or v["speed"] for v in verdicts)
    assert all(v["colour"] and v["shape"] and v["count"] for v in verdicts)


def test_a_wrong_colour_fails_in_colour_alone() -> None:
    verdicts = []
    for i, (scene, text, _) in enumerate(_clips("simple", 30, 16)):
        colours = [c for c in COLOURS if c != scene.groups[0].colour]
        recoloured = Scene((replace(scene.groups[0], colour=colours[i % 5]),))
        verdicts.append(check_clip(render(recoloured, np.random.default_rng(i)), text))
    assert not any(v["colour"] for v in verdicts)
    assert all(v["shape"] and v["direction"] and v["speed"] and v["count"] for v in verdicts)


def test_a_reversed_clip_fails_in_direction_alone() -> None:
    moving = [(t, c) for s, t, c in _clips("simple", 40, 17) if s.groups[0].direction != "still"]
    verdicts = [check_clip(clip[::-1], text) for text, clip in moving]
    assert not any(v["direction"] for v in verdicts)
    assert all(v["speed"] and v["shape"] and v["colour"] for v in verdicts)


def test_a_missing_member_of_a_group_fails_in_count() -> None:
    two = render(Scene((Group("red", "disc", "still", "still", 2),), "plain"), np.random.default_rng(3))
    assert not check_clip(two, "three small red discs stay still over a plain background")["count"]


def test_an_extra_object_makes_the_colour_wrong() -> None:
    scene = Scene((Group("red", "disc", "still", "still"), Group("blue", "ring", "still", "still")), "plain")
    verdict = check_clip(render(scene, np.random.default_rng(0)), "a red disc stays still")
    assert not verdict["colour"]


def test_a_clip_of_another_size_is_read_alike() -> None:
    for _, text, clip in _clips("rich", 10, 18):
        large = clip.repeat(3, 1).repeat(4, 2).repeat(2, 0)
        assert all(check_clip(large, text).values()), text


def test_an_empty_clip_shows_nothing() -> None:
    empty = np.full((9, 48, 48, 3), 40, np.uint8)
    assert read_clip(empty) == []
    assert not any(check_clip(empty, "a red disc stays still").values())


def test_a_clip_of_the_wrong_form_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 4 RGB frames"):
        read_clip(np.zeros((2, 48, 48, 3), np.uint8))


def _drawn(shape: str, step: tuple[float, float] = (0.0, 0.0)) -> Clip:
    """A red shape, 18 pixels across, that moves through the middle by step (right, down) a frame, over a plain ground."""
    clip = np.full((9, 48, 48, 3), 70.0)
    for t in range(9):
        alpha = coverage(shape, 24 + step[0] * (t - 4), 24 + step[1] * (t - 4), 18.0)[..., None]
        clip[t] += alpha * (np.array(COLOURS["red"]) - clip[t])
    return np.asarray(np.rint(clip), np.uint8)


@pytest.mark.parametrize(("pace", "speed"), [(0.39, "still"), (0.41, "slow"), (1.59, "slow"), (1.61, "fast")])
def test_a_speed_is_still_below_0_4_pixels_a_frame_and_fast_from_1_6(pace: float, speed: str) -> None:
    (reading,) = read_clip(_drawn("disc", (0.0, -pace)))
    assert (reading.speed, reading.direction) == (speed, "still" if speed == "still" else "up")


@pytest.mark.parametrize(("degrees", "direction"), [(25, "right"), (27, None)])
def test_a_direction_is_read_within_26_degrees(degrees: int, direction: str | None) -> None:
    turn = np.deg2rad(degrees)
    (reading,) = read_clip(_drawn("disc", (np.cos(turn), np.sin(turn))))
    assert (reading.direction, reading.speed) == (direction, "slow")


@pytest.mark.parametrize("shape", ["disc", "square", "triangle", "cross"])
def test_a_shape_is_read_from_a_fit_of_0_74(shape: str) -> None:
    clips = [ndimage.gaussian_filter(_drawn(shape).astype(float), (0, sigma, sigma, 0)) for sigma in np.arange(1.4, 3, 0.1)]
    readings = [read_clip(clip.astype(np.uint8))[0] for clip in clips]
    assert min(abs(r.fit - 0.74) for r in readings) < 0.01
    assert [r.shape for r in readings] == [shape if r.fit >= 0.74 else None for r in readings]


@pytest.mark.parametrize(("area", "objects"), [(13, 0), (14, 1)])
def test_an_object_has_14_pixels_at_least(area: int, objects: int) -> None:
    clip = np.full((9, 48, 48, 3), 70, np.uint8)
    clip[:, 20 + np.arange(area) // 7, 20 + np.arange(area) % 7] = COLOURS["red"]
    assert [reading.count for reading in read_clip(clip)] == [1] * objects


@pytest.mark.parametrize(("spots", "shape"), [(104, "square"), (108, None)])
def test_a_shape_is_read_up_to_0_3_of_its_area_in_stray_colour(spots: int, shape: str | None) -> None:
    """The square has 263 pixels; a spot counts by its chroma, 0.74."""
    clip = _drawn("square")
    at = np.arange(spots)
    clip[:, 2 * (at // 24), 2 * (at % 24)] = COLOURS["blue"]
    (reading,) = read_clip(clip)
    assert (reading.colour, reading.shape) == ("red", shape)


def _ground(swing: float, chroma: float = 0.0, down: int = 0) -> Clip:
    """Grey waves of that amplitude and period 16 to the right, and down if it is 1; tinted. swing, chroma: of full scale."""
    y, x = np.mgrid[:48, :48]
    grey = 0.4 + swing * np.cos(2 * np.pi * (x + down * y) / BACKGROUND_PERIOD)
    clip = grey[..., None] + chroma * np.array([2, -1, -1]) / 3
    return np.asarray(np.rint(np.repeat(clip[None] * 255, 9, axis=0)), np.uint8)


@pytest.mark.parametrize(
    ("swing", "down", "pattern"), [(0.023, 0, "plain"), (0.027, 0, "striped"), (0.023, 1, "plain"), (0.027, 1, "checked")]
)
def test_a_ground_has_a_pattern_from_a_swing_of_0_025(swing: float, down: int, pattern: str) -> None:
    assert read_background(_ground(swing, down=down)) == pattern


@pytest.mark.parametrize(("chroma", "pattern"), [(0.10, "striped"), (0.12, "plain")])
def test_ground_is_what_has_less_than_0_11_of_chroma(chroma: float, pattern: str) -> None:
    assert read_background(_ground(0.1, chroma)) == pattern
