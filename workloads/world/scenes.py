"""The embedded world: captioned clips of moving coloured shapes, rendered by program.

Every clip is 9 frames of 48 x 48 at 8 frames a second. Two grades:

  simple  one object on a plain ground: colour, shape, direction, speed
  rich    two objects whose paths cross, or a group of two or three that moves as one, on a plain, striped or checked ground

A `Scene` is the ground truth of a clip: `render` draws it, `caption` describes it, `parse_caption` parses the description, and
`workloads.world.checker` reads the pixels. Training never draws a combination of colour, shape and direction for which `is_held_out` is
true, in any grade.

Shape letters: T frames, H height, W width, C channels (RGB).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Grade = Literal["simple", "rich"]
Split = Literal["train", "held_out", "any"]

NUM_FRAMES = 9
SIZE = 48  # pixels, height and width
FPS = 8

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (226, 40, 44),
    "green": (40, 196, 64),
    "blue": (52, 84, 240),
    "yellow": (238, 212, 40),
    "magenta": (222, 56, 214),
    "cyan": (46, 212, 224),
}
SHAPES = ("disc", "square", "triangle", "cross", "ring")
DIRECTIONS: dict[str, tuple[int, int]] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "still": (0, 0)}
SPEEDS: dict[str, float] = {"slow": 0.9, "fast": 2.4, "still": 0.0}  # pixels a frame
BACKGROUNDS = ("plain", "striped", "checked")
BACKGROUND_PERIOD = 16  # pixels: a stripe is half of it wide

SINGLE_SIZE, PAIR_SIZE, GROUP_SIZE = 18.0, 16.0, 12.0  # pixels across
GROUP_PITCH = 15.0  # pixels between the members of a group, across its direction


@dataclass(frozen=True, slots=True)
class Group:
    """`count` equal objects that move as one."""

    colour: str
    shape: str
    direction: str
    speed: str
    count: int = 1


@dataclass(frozen=True, slots=True)
class Scene:
    """What a clip shows. `background` is None if the caption does not name it (simple grade)."""

    groups: tuple[Group, ...]
    background: str | None = None


def is_held_out(group: Group) -> bool:
    """Whether this colour, shape and direction never appear together in training (14 of the 150 combinations)."""
    c, s, d = list(COLOURS).index(group.colour), SHAPES.index(group.shape), list(DIRECTIONS).index(group.direction)
    return (c + 3 * s + 5 * d) % 11 == 4


def sample_scene(rng: np.random.Generator, grade: Grade, split: Split = "any") -> Scene:
    """A random scene of the grade. `train` has no held-out group, `held_out` has at least one."""
    if grade not in get_args(Grade):
        raise ValueError(f"unknown grade {grade!r}; known: {', '.join(get_args(Grade))}")
    while True:
        scene = Scene((_random_group(rng),)) if grade == "simple" else _rich_scene(rng)
        held_out = any(is_held_out(g) for g in scene.groups)
        if split == "any" or held_out == (split == "held_out"):
            return scene


def render(scene: Scene, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw the scene at a random position: uint8 video_THWC, (9, 48, 48, 3). The first group is in front."""
    paths = _place(scene, rng)
    ground = _ground(scene.background or "plain", rng)
    video = np.repeat(ground[None], NUM_FRAMES, axis=0)
    for group, (size, starts) in reversed(list(zip(scene.groups, paths, strict=True))):
        step = np.array(DIRECTIONS[group.direction]) * SPEEDS[group.speed]
        for t, start in itertools.product(range(NUM_FRAMES), starts):
            x, y = start + step * t
            alpha = coverage(group.shape, x, y, size)[..., None]
            video[t] = video[t] * (1 - alpha) + np.array(COLOURS[group.colour]) * alpha
    return np.clip(np.rint(video), 0, 255).astype(np.uint8)


def coverage(shape: str, x: float, y: float, size: float, extent: int = SIZE) -> NDArray[np.float64]:
    """Share of each pixel that the shape covers, 0 to 1, as an array (extent, extent); (x, y) is the centre of its box."""
    axis = np.arange(extent) + 0.5
    dx, dy = axis[None, :] - x, axis[:, None] - y
    half = size / 2
    if shape == "disc":
        distance = np.hypot(dx, dy) - half
    elif shape == "square":
        distance = np.maximum(np.abs(dx), np.abs(dy)) - 0.9 * half
    elif shape == "triangle":  # point up
        slope = np.array([2.0, 1.0]) / np.sqrt(5)
        sides = np.abs(dx) * slope[0] - (dy + half) * slope[1]
        distance = np.maximum(sides, dy - half)
    elif shape == "cross":
        long, short = half, half * 0.38
        ax, ay = np.abs(dx), np.abs(dy)
        distance = np.minimum(np.maximum(ax - long, ay - short), np.maximum(ax - short, ay - long))
    elif shape == "ring":
        width = half * 0.46
        distance = np.abs(np.hypot(dx, dy) - (half - width / 2)) - width / 2
    else:
        raise ValueError(f"unknown shape {shape!r}; known: {', '.join(SHAPES)}")
    return np.asarray(np.clip(0.5 - distance, 0.0, 1.0), np.float64)


# Words. The first entry of every list is the plain wording; the others are paraphrases.
_SHAPE_WORDS = {
    "disc": ("disc", "circle"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
    "cross": ("cross", "plus"),
    "ring": ("ring", "hoop"),
}
_DIRECTION_WORDS = {
    "left": ("to the left", "leftward"),
    "right": ("to the right", "rightward"),
    "up": ("upward", "to the top"),
    "down": ("downward", "to the bottom"),
}
_SPEED_WORDS = {"slow": ("slowly", "gently"), "fast": ("quickly", "fast")}
_STILL_WORDS = ("stay still", "rest in place")
_VERBS = ("move", "slide", "travel")
_COUNT_WORDS = {1: "a", 2: "two", 3: "three"}
_GROUND_WORDS = ("over a {} background", "on a {} floor")
_JOINS = ("while", "and")


def caption(scene: Scene, rng: np.random.Generator | None = None) -> str:
    """The scene in words: a random paraphrase with `rng`, else the plain wording."""

    def pick(words: Sequence[str]) -> str:
        return words[0] if rng is None else words[int(rng.integers(len(words)))]

    clauses = [_clause(group, pick) for group in scene.groups]
    text = f" {pick(_JOINS)} ".join(clauses)
    return f"{text} {pick(_GROUND_WORDS).format(scene.background)}" if scene.background else text


def vocabulary() -> list[str]:
    """Every word that a caption can contain, sorted."""
    lists = [*_SHAPE_WORDS.values(), *_DIRECTION_WORDS.values(), *_SPEED_WORDS.values()]
    words = {w for words in lists for phrase in words for w in phrase.split()}
    words |= {_plural(w) for words in _SHAPE_WORDS.values() for w in words}
    words |= {v for verb in (*_VERBS, "stay", "rest") for v in (verb, f"{verb}s")} | {"still", "in", "place"}
    words |= {w for phrase in _GROUND_WORDS for w in phrase.split() if w != "{}"}
    return sorted(words | set(COLOURS) | set(BACKGROUNDS) | set(_COUNT_WORDS.values()) | set(_JOINS) | {"small"})


def parse_caption(text: str) -> Scene:
    """The scene that a caption describes.

    Raises ValueError, naming what is missing, if the text does not describe this world.
    """
    words = text.lower().strip().rstrip(".")
    ground = re.search(r"\b(?:over|on) an? (\w+) (?:background|floor)$", words)
    background = None
    if ground:
        background = _one_of(ground[1], "background", text)
        words = words[: ground.start()]
    clauses = re.split(r"\b(?:while|and)\b", words)
    groups = tuple(_parse_clause(c, text) for c in clauses)
    if len({g.colour for g in groups}) < len(groups):
        raise ValueError(f"caption {text!r} names one colour twice; objects must differ in colour")
    return Scene(groups, background)


def _rich_scene(rng: np.random.Generator) -> Scene:
    background = str(rng.choice(BACKGROUNDS))
    if rng.random() < 0.5:
        return Scene((_random_group(rng, count=int(rng.integers(2, 4))),), background)
    first = _random_group(rng)
    while (second := _random_group(rng)).colour == first.colour:
        pass
    return Scene((first, second), background)


def _random_group(rng: np.random.Generator, count: int = 1) -> Group:
    direction = str(rng.choice(list(DIRECTIONS)))
    speed = "still" if direction == "still" else str(rng.choice(["slow", "fast"]))
    return Group(str(rng.choice(list(COLOURS))), str(rng.choice(SHAPES)), direction, speed, count)


def _place(scene: Scene, rng: np.random.Generator) -> list[tuple[float, NDArray[np.float64]]]:
    """For each group the size of its objects and their centres in frame 0, (count, 2) as x, y."""
    if len(scene.groups) == 1:
        (group,) = scene.groups
        size = (SINGLE_SIZE if group.count == 1 else GROUP_SIZE) + rng.uniform(-0.7, 0.7)
        return [(size, _group_starts(group, size, rng))]
    sizes = [PAIR_SIZE + rng.uniform(-0.7, 0.7) for _ in scene.groups]
    spread = 7.0
    for _ in range(400):  # both near the centre half-way through, but each fully visible in at least five frames
        starts = [_crossing_start(g, s, spread, rng) for g, s in zip(scene.groups, sizes, strict=True)]
        t = np.arange(NUM_FRAMES)[:, None]
        tracks = [s + t * np.array(DIRECTIONS[g.direction]) * SPEEDS[g.speed] for g, s in zip(scene.groups, starts, strict=True)]
        gaps = [np.abs(a - b).max(axis=1) for a, b in itertools.combinations(tracks, 2)]
        if all((gap > max(sizes)).sum() >= 5 for gap in gaps):
            return [(size, start[None]) for size, start in zip(sizes, starts, strict=True)]
        spread = min(spread + 0.1, SIZE / 2)
    raise ValueError(f"no placement keeps every object of {scene} in sight; use at most two groups")


def _group_starts(group: Group, size: float, rng: np.random.Generator) -> NDArray[np.float64]:
    step = np.array(DIRECTIONS[group.direction]) * SPEEDS[group.speed]
    low, high = _bounds(step, size)
    if group.count == 1:
        return rng.uniform(low, high)[None]
    across = 1 if group.direction in ("left", "right") else 0
    slots = np.sort(rng.permutation(3)[: group.count])
    starts = rng.uniform(low, high, (group.count, 2))
    starts[:, across] = (SIZE - 2 * GROUP_PITCH) / 2 + slots * GROUP_PITCH + rng.uniform(-0.7, 0.7)
    return starts


def _crossing_start(group: Group, size: float, spread: float, rng: np.random.Generator) -> NDArray[np.float64]:
    step = np.array(DIRECTIONS[group.direction]) * SPEEDS[group.speed]
    low, high = _bounds(step, size)
    start = SIZE / 2 + rng.uniform(-spread, spread, 2) - step * (NUM_FRAMES - 1) / 2
    return np.clip(start, low, high)


def _bounds(step: NDArray[np.float64], size: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Range of start positions for which the object stays inside the frame in every frame."""
    travel = step * (NUM_FRAMES - 1)
    return size / 2 + 0.5 - np.minimum(travel, 0), SIZE - size / 2 - 0.5 - np.maximum(travel, 0)


def _ground(background: str, rng: np.random.Generator) -> NDArray[np.float64]:
    """A grey background, float image_HWC in 0 to 255."""
    level, contrast = rng.uniform(34, 58), 30.0
    half = BACKGROUND_PERIOD // 2
    y, x = np.mgrid[:SIZE, :SIZE] + rng.integers(0, BACKGROUND_PERIOD, 2)[:, None, None]
    pattern = {"plain": np.zeros((SIZE, SIZE)), "striped": (x // half) % 2, "checked": (x // half + y // half) % 2}[background]
    return np.repeat((level + contrast * pattern)[..., None], 3, axis=2)


def _clause(group: Group, pick: Callable[[Sequence[str]], str]) -> str:
    one = group.count == 1
    noun = pick(_SHAPE_WORDS[group.shape])
    subject = f"a {group.colour} {noun}" if one else f"{_COUNT_WORDS[group.count]} small {group.colour} {_plural(noun)}"
    if group.direction == "still":
        verb, rest = pick(_STILL_WORDS).split(" ", 1)
        return f"{subject} {verb}{'s' if one else ''} {rest}"
    verb = pick(_VERBS) + ("s" if one else "")
    return f"{subject} {verb} {pick(_SPEED_WORDS[group.speed])} {pick(_DIRECTION_WORDS[group.direction])}"


def _plural(noun: str) -> str:
    return noun + ("es" if noun.endswith(("s", "x")) else "s")


def _parse_clause(clause: str, text: str) -> Group:
    colour, shape, count = (_one_of(clause, what, text) for what in ("colour", "shape", "count"))
    if _patterns("still")["still"].search(clause):
        return Group(colour, shape, "still", "still", int(count))
    return Group(colour, shape, _one_of(clause, "direction", text), _one_of(clause, "speed", text), int(count))


def _one_of(clause: str, what: str, text: str) -> str:
    matches = [key for key, pattern in _patterns(what).items() if pattern.search(clause)]
    if len(matches) != 1:
        known = ", ".join(forms[0] for forms in _FORMS[what].values())
        raise ValueError(f"caption {text!r} names {'more than one' if matches else 'no'} {what}; known: {known}")
    return matches[0]


@cache
def _patterns(what: str) -> dict[str, re.Pattern[str]]:
    return {key: re.compile(rf"\b(?:{'|'.join(map(re.escape, forms))})\b") for key, forms in _FORMS[what].items()}


_FORMS: dict[str, Mapping[str, tuple[str, ...]]] = {
    "background": {b: (b,) for b in BACKGROUNDS},
    "colour": {c: (c,) for c in COLOURS},
    "shape": {s: (*w, *map(_plural, w)) for s, w in _SHAPE_WORDS.items()},
    "count": {str(n): (w, "an", "one") if n == 1 else (w,) for n, w in _COUNT_WORDS.items()},
    "direction": {k: (*w, k) for k, w in _DIRECTION_WORDS.items()},
    "speed": _SPEED_WORDS,
    "still": {"still": tuple(form for w in _STILL_WORDS for form in (w, w.replace(" ", "s ", 1)))},
}
