"""The embedded world in images: a frame or a clip, a question about it, and the answer by program.

  colour, shape, count   one group of equal objects: a word
  place                  where one object is: `top left`, `middle`, `bottom` ...
  which                  of two objects, the colour of a shape or the shape of a colour
  direction, speed       a clip of three frames with one object: `left`, `still`; `slow`, `fast`, `still`
  catalogue              the entry of a product catalogue as JSON, with a category path of three or four levels

The catalogue's taxonomy: Single or Set, then Round or Angular, then the shape, and for a set Pair or Trio:
`Set > Angular > Cross > Trio`. An entry also has the colour, and whether the background has a pattern.

Training never shows a colour and shape of `HELD_OUT_GROUNDS` on the background given there, nor a motion for which
`workloads.world.scenes.is_held_out` is true.

Shape letters: T frames, H height, W width, C channels (RGB).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workloads.world.scenes import BACKGROUNDS, COLOURS, DIRECTIONS, SHAPES, SIZE, SPEEDS, Group, Scene, Split, is_held_out, render

CLIP_FRAMES = (0, 4, 8)  # the frames of the world's nine that a clip shows
COUNTS = {1: "one", 2: "two", 3: "three"}
PLACES = tuple(f"{v} {h}".strip() or "middle" for v in ("top", "", "bottom") for h in ("left", "", "right"))
PLACE_MARGIN = 1.5  # pixels: objects nearer to a border between two places are not used
SEPARATOR = " > "
FAMILIES = {"disc": "Round", "ring": "Round", "square": "Angular", "triangle": "Angular", "cross": "Angular"}
SETS = {2: "Pair", 3: "Trio"}
HELD_OUT_GROUNDS = {
    ("blue", "disc"): "striped",
    ("green", "disc"): "checked",
    ("yellow", "square"): "striped",
    ("magenta", "triangle"): "checked",
    ("cyan", "cross"): "striped",
    ("red", "ring"): "checked",
}

# Phrasings of the question by task. Those of `which` have a placeholder for the known attribute.
QUESTIONS: dict[str, tuple[str, ...]] = {
    "colour": ("what colour is shown?", "which colour do you see?", "name the colour."),
    "shape": ("what shape is shown?", "which shape do you see?", "name the shape."),
    "count": ("how many are there?", "how many objects do you see?", "count the objects."),
    "place": ("where is it?", "in which part of the picture is it?", "name the place of the object."),
    "which": ("what colour is the {shape}?", "what shape is the {colour} one?"),
    "direction": ("which way does it go?", "in which direction does it move?", "name the direction."),
    "speed": ("what is its speed?", "at which speed does it move?", "name the speed."),
    "catalogue": ("give the catalogue entry as JSON.", "file this item in the catalogue.", "write a JSON entry for this item."),
}
TASKS = tuple(QUESTIONS)
CLIP_TASKS = ("direction", "speed")

# Every possible answer of a task; `catalogue` has too many to list.
ANSWERS: dict[str, tuple[str, ...]] = {
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "count": tuple(COUNTS.values()),
    "place": PLACES,
    "which": (*COLOURS, *SHAPES),
    "direction": tuple(DIRECTIONS),
    "speed": tuple(SPEEDS),
}


@dataclass(frozen=True, slots=True)
class Item:
    """A question about a picture with its answer. frames_THWC: uint8; one frame, or three of a clip."""

    task: str
    prompt: str
    answer: str
    frames_THWC: NDArray[np.uint8]
    held_out: bool


def draw_item(rng: np.random.Generator, task: str, split: Split = "any", answer: str | None = None) -> Item:
    """A random item of the task, with the given answer if there is one.

    `train` items show nothing held out, `held_out` items at least one such object.
    """
    while True:
        scene = draw_scene(rng, task, split)
        frames_THWC = show(rng, task, scene) if task == "place" else None  # only this answer depends on the pixels
        question = ask(rng, task, scene, frames_THWC)
        if question is not None and answer in (None, question[1]):
            pixels = show(rng, task, scene) if frames_THWC is None else frames_THWC
            return Item(task, *question, pixels, has_held_out(scene, task in CLIP_TASKS))


def draw_scene(rng: np.random.Generator, task: str, split: Split = "any") -> Scene:
    """A random scene for the task. Raises ValueError if the task is unknown."""
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}; known: {', '.join(TASKS)}")
    moving = task in CLIP_TASKS
    while True:
        background = str(rng.choice(BACKGROUNDS))
        groups: tuple[Group, ...]
        if task == "which":
            groups = (_random_group(rng, 1), _random_group(rng, 1))
            if groups[0].colour == groups[1].colour or groups[0].shape == groups[1].shape:
                continue
        else:
            groups = (_random_group(rng, 1 if moving or task == "place" else int(rng.integers(1, 4)), still=task == "place"),)
        scene = Scene(groups, background)
        if split == "train" and has_held_out(scene, clip=True):
            continue
        if split == "held_out" and not has_held_out(scene, moving):
            continue
        return scene


def has_held_out(scene: Scene, clip: bool) -> bool:
    """Whether the scene has an object that training never shows. clip: motion is visible and counts."""
    grounds = (HELD_OUT_GROUNDS.get((g.colour, g.shape)) for g in scene.groups)
    return scene.background in [g for g in grounds if g] or (clip and any(is_held_out(g) for g in scene.groups))


def show(rng: np.random.Generator, task: str, scene: Scene) -> NDArray[np.uint8]:
    """Draw what the task shows of the scene: frames_THWC, T = 3 for a clip, else 1."""
    video_THWC = render(scene, rng)
    if task in CLIP_TASKS:
        return video_THWC[list(CLIP_FRAMES)]
    chosen = int(rng.integers(len(video_THWC)))
    if len(scene.groups) > 1:  # no frame in which one object hides the other
        seen = np.array([[colour_mask(frame, g.colour).sum() for g in scene.groups] for frame in video_THWC])
        clear = np.flatnonzero((seen >= 0.9 * seen.max(axis=0)).all(axis=1))
        chosen = int(rng.choice(clear)) if len(clear) else int(seen.min(axis=1).argmax())
    return video_THWC[chosen : chosen + 1]


def ask(rng: np.random.Generator, task: str, scene: Scene, frames_THWC: NDArray[np.uint8] | None = None) -> tuple[str, str] | None:
    """A phrasing of the task's question, and its answer; None if the place is too near a border."""
    phrasing = str(rng.choice(QUESTIONS[task]))
    group = scene.groups[int(rng.integers(len(scene.groups)))] if task == "which" else scene.groups[0]
    if task == "place":
        assert frames_THWC is not None
        place = place_of(frames_THWC[0])
        return None if place is None else (phrasing, place)
    answers = {
        "count": COUNTS[group.count],
        "which": group.colour if "{shape}" in phrasing else group.shape,
        "catalogue": catalogue_entry(group, scene.background or "plain"),
    }
    return phrasing.format(shape=group.shape, colour=group.colour), answers.get(task) or str(getattr(group, task))


def catalogue_entry(group: Group, background: str) -> str:
    """The entry as JSON on one line: category, colour, is_patterned."""
    path = ["Single" if group.count == 1 else "Set", FAMILIES[group.shape], group.shape.capitalize()]
    path += [SETS[group.count]] if group.count > 1 else []
    entry: dict[str, Any] = {"category": SEPARATOR.join(path), "colour": group.colour, "is_patterned": background != "plain"}
    return json.dumps(entry)


def place_of(frame_HWC: NDArray[np.uint8]) -> str | None:
    """The one of nine parts that contains the centre of the coloured pixels; None if it is within the margin of a border."""
    x, y = centre(frame_HWC)
    third = SIZE / 3
    if any(abs(v - border) < PLACE_MARGIN for v in (x, y) for border in (third, 2 * third)):
        return None
    return PLACES[3 * int(y // third) + int(x // third)]


def centre(frame_HWC: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The centre (x, y) of the coloured pixels. Raises ValueError if there are none."""
    y, x = np.nonzero(_coloured(frame_HWC))
    if not len(x):
        raise ValueError("the image has no coloured pixels")
    return np.array([x.mean() + 0.5, y.mean() + 0.5])


def colour_mask(frame_HWC: NDArray[np.uint8], colour: str) -> NDArray[np.bool_]:
    """The pixels of that colour."""
    return np.asarray(np.abs(frame_HWC.astype(np.int16) - COLOURS[colour]).max(axis=-1) < 60)


def _coloured(frame_HWC: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """The pixels that are more object than background, which is grey."""
    return np.asarray(np.ptp(frame_HWC.astype(np.int16), axis=-1) > 80)


def _random_group(rng: np.random.Generator, count: int, still: bool = False) -> Group:
    direction = "still" if still else str(rng.choice(list(DIRECTIONS)))
    speed = "still" if direction == "still" else str(rng.choice(["slow", "fast"]))
    return Group(str(rng.choice(list(COLOURS))), str(rng.choice(SHAPES)), direction, speed, count)
