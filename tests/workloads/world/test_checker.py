from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from workloads.world.checker import check_clip, read_clip
from workloads.world.scenes import COLOURS, Grade, Group, Scene, caption, render, sample_scene

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
    verdicts = [check_clip(clip, text) for _, text, clip in _clips(grade, 300, 11)]
    for attribute in verdicts[0]:
        assert sum(v[attribute] for v in verdicts) / len(verdicts) >= 0.99, attribute


@pytest.mark.parametrize("grade", ["simple", "rich"])
def test_captions_of_other_clips_fail(grade: Grade) -> None:
    clips = _clips(grade, 60, 12)
    assert _passes([(clips[i - 1][1], clips[i][2]) for i in range(len(clips))]) <= 0.05


@pytest.mark.parametrize("grade", ["simple", "rich"])
def test_blurred_clips_fail(grade: Grade) -> None:
    def blur(clip: Clip) -> Clip:
        return np.asarray(ndimage.gaussian_filter(clip.astype(float), (0, 3, 3, 0)), np.uint8)

    assert _passes([(text, blur(clip)) for _, text, clip in _clips(grade, 60, 13)]) <= 0.05


@pytest.mark.parametrize("grade", ["simple", "rich"])
def test_noised_clips_fail(grade: Grade) -> None:
    rng = np.random.default_rng(0)

    def noise(clip: Clip) -> Clip:
        return np.clip(clip + rng.normal(0, 40, clip.shape), 0, 255).astype(np.uint8)

    assert _passes([(text, noise(clip)) for _, text, clip in _clips(grade, 60, 14)]) <= 0.05


def test_frozen_clips_fail_where_motion_is_stated() -> None:
    moving = [(t, c) for s, t, c in _clips("simple", 80, 15) if s.groups[0].direction != "still"]
    verdicts = [check_clip(np.repeat(clip[:1], len(clip), axis=0), text) for text, clip in moving]
    assert not any(v["direction"] or v["speed"] for v in verdicts)
    assert all(v["colour"] and v["shape"] and v["count"] for v in verdicts)


def test_a_wrong_colour_fails_in_colour_alone() -> None:
    verdicts = []
    for i, (scene, text, _) in enumerate(_clips("simple", 60, 16)):
        colours = [c for c in COLOURS if c != scene.groups[0].colour]
        recoloured = Scene((replace(scene.groups[0], colour=colours[i % 5]),))
        verdicts.append(check_clip(render(recoloured, np.random.default_rng(i)), text))
    assert not any(v["colour"] for v in verdicts)
    assert all(v["shape"] and v["direction"] and v["speed"] and v["count"] for v in verdicts)


def test_a_reversed_clip_fails_in_direction_alone() -> None:
    moving = [(t, c) for s, t, c in _clips("simple", 80, 17) if s.groups[0].direction != "still"]
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
    for _, text, clip in _clips("rich", 20, 18):
        large = clip.repeat(3, 1).repeat(4, 2).repeat(2, 0)
        assert all(check_clip(large, text).values()), text


def test_an_empty_clip_shows_nothing() -> None:
    empty = np.full((9, 48, 48, 3), 40, np.uint8)
    assert read_clip(empty) == []
    assert not any(check_clip(empty, "a red disc stays still").values())


def test_a_clip_of_the_wrong_form_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 4 RGB frames"):
        read_clip(np.zeros((2, 48, 48, 3), np.uint8))
