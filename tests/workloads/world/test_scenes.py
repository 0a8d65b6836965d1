from __future__ import annotations

import itertools

import numpy as np
import pytest

from workloads.world.scenes import (
    COLOURS,
    DIRECTIONS,
    NUM_FRAMES,
    SHAPES,
    SIZE,
    Grade,
    Group,
    Scene,
    caption,
    is_held_out,
    parse_caption,
    render,
    sample_scene,
    vocabulary,
)


@pytest.mark.parametrize("grade", ["simple", "rich"])
def test_every_paraphrase_reads_back_as_its_scene(grade: Grade) -> None:
    rng = np.random.default_rng(0)
    for _ in range(500):
        scene = sample_scene(rng, grade)
        text = caption(scene, rng)
        assert parse_caption(text) == scene, text
        assert set(text.split()) <= set(vocabulary())


def test_held_out_combinations_are_few_and_leave_every_attribute_in_training() -> None:
    groups = [Group(c, s, d, "slow") for c, s, d in itertools.product(COLOURS, SHAPES, DIRECTIONS)]
    kept = [g for g in groups if not is_held_out(g)]
    assert len(groups) - len(kept) == 14
    assert {g.colour for g in kept} == set(COLOURS)
    assert {g.shape for g in kept} == set(SHAPES)
    assert {g.direction for g in kept} == set(DIRECTIONS)


def test_splits_are_kept_apart() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        assert not any(is_held_out(g) for g in sample_scene(rng, "rich", "train").groups)
        assert any(is_held_out(g) for g in sample_scene(rng, "rich", "held_out").groups)


def test_one_seed_draws_one_clip() -> None:
    scene = parse_caption("a red disc moves quickly to the left while a blue ring stays still over a checked background")
    first, again, other = (render(scene, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.shape == (NUM_FRAMES, SIZE, SIZE, 3)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_moving_object_moves_the_stated_way() -> None:
    video = render(Scene((Group("red", "disc", "right", "fast"),)), np.random.default_rng(0))
    columns = [np.average(np.arange(SIZE), weights=(frame[..., 0] > 120).sum(0)) for frame in video]
    assert np.diff(columns).mean() == pytest.approx(2.4, abs=0.15)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a disc moves slowly to the left", "no colour"),
        ("a red disc", "no direction"),
        ("a red blue disc stays still", "more than one colour"),
        ("a red disc stays still on a furry floor", "no background"),
        ("a red disc stays still while a red ring stays still", "one colour twice"),
    ],
)
def test_a_caption_of_another_world_is_refused_with_what_is_missing(text: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        parse_caption(text)
