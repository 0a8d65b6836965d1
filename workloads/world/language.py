"""The embedded world in language: a described scene, a task about it, and the answer by program.

A scene here is two to five single objects of different colours, each described in a sentence of `workloads.world.scenes`. Tasks:

  shape, colour, motion, find, number   a question about the scene, answered in one short sentence
  count                                 numbers from a first to a last in equal steps, without a scene
  lines, json                           the objects in a given output format, in the order of the text
  repeat, backwards                     the description again, word for word, or its words from last to first
  summary                               how many of what, what moves, what is fast

Every answer follows from the prompt alone, so exact match is a fair score for all tasks but the summary.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from workloads.world.scenes import COLOURS, DIRECTIONS, SHAPES, Group, Scene, Split, caption, is_held_out

MIN_OBJECTS, MAX_OBJECTS = 2, 5
LAST_NUMBER, MAX_COUNTED = 99, 96  # count task: its largest number, and the most numbers of an answer
STEPS = (1, 2, 3, 5, 10)

_NUMBER_WORDS = ("none", "one", "two", "three", "four", "five")
_DIRECTION_PHRASES = {"left": "to the left", "right": "to the right", "up": "upward", "down": "downward"}
_SPEED_WORDS = {"slow": "slowly", "fast": "quickly"}


@dataclass(frozen=True, slots=True)
class Item:
    """A prompt with its answer. groups: the scene's objects, in the order of the text; empty for `count`."""

    task: str
    prompt: str
    answer: str
    groups: tuple[Group, ...] = ()

    @property
    def held_out(self) -> bool:
        """Whether the scene has an object that training never draws."""
        return any(is_held_out(g) for g in self.groups)


def draw_item(rng: np.random.Generator, task: str, split: Split = "any") -> Item:
    """A random item. `train` scenes have no held-out object, `held_out` ones have at least one.

    Count items are split by their first and last number: those whose sum is a multiple of 7 are held out, so that no single number is.
    Raises ValueError if the task is unknown.
    """
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}; known: {', '.join(TASKS)}")
    while True:
        item = _count(rng) if task == "count" else _about_scene(rng, task)
        if item is None:
            continue
        held_out = is_unseen(item)
        if split == "any" or held_out == (split == "held_out"):
            return item


def is_unseen(item: Item) -> bool:
    """Whether training never draws the item's scene, or its count's first and last number."""
    return item.held_out if item.groups else sum(_ends(item.answer)) % 7 == 0


def _ends(answer: str) -> tuple[int, int]:
    """First and last number of a count."""
    numbers = answer.rstrip(".").split(", ")
    return int(numbers[0]), int(numbers[-1])


def _about_scene(rng: np.random.Generator, task: str) -> Item | None:
    groups = _objects(rng)
    draw = _SCENE_TASKS[task](rng, groups)
    if draw is None:
        return None
    text = ". ".join(caption(Scene((g,)), rng) for g in groups) + "."
    answer = draw[1] or (backwards_answer(text) if task == "backwards" else text)
    return Item(task, f"{text} {draw[0]}", answer, groups)


def _objects(rng: np.random.Generator) -> tuple[Group, ...]:
    count = int(rng.integers(MIN_OBJECTS, MAX_OBJECTS + 1))
    groups = []
    for colour in rng.permutation(list(COLOURS))[:count]:
        direction = str(rng.choice(list(DIRECTIONS)))
        speed = "still" if direction == "still" else str(rng.choice(["slow", "fast"]))
        groups.append(Group(str(colour), str(rng.choice(SHAPES)), direction, speed))
    return tuple(groups)


# Question and answer; the answer is None if it repeats the text. None if the question has no single answer.
Draw = tuple[str, str | None] | None


def _pick(rng: np.random.Generator, *texts: str) -> str:
    return texts[int(rng.integers(len(texts)))]


def _shape(rng: np.random.Generator, groups: Sequence[Group]) -> Draw:
    g = groups[int(rng.integers(len(groups)))]
    question = _pick(rng, f"what shape is the {g.colour} object?", f"which shape does the {g.colour} object have?")
    return question, f"the {g.colour} object is a {g.shape}."


def _colour(rng: np.random.Generator, groups: Sequence[Group]) -> Draw:
    g = groups[int(rng.integers(len(groups)))]
    if sum(o.shape == g.shape for o in groups) > 1:
        return None
    return _pick(rng, f"what colour is the {g.shape}?", f"which colour does the {g.shape} have?"), f"the {g.shape} is {g.colour}."


def _motion(rng: np.random.Generator, groups: Sequence[Group]) -> Draw:
    g = groups[int(rng.integers(len(groups)))]
    question = _pick(rng, f"how does the {g.colour} object move?", f"what does the {g.colour} object do?")
    return question, motion_answer(g)


def _find(rng: np.random.Generator, groups: Sequence[Group]) -> Draw:
    g = groups[int(rng.integers(len(groups)))]
    if sum(o.direction == g.direction for o in groups) > 1:
        return None
    doing = _doing(g)
    return _pick(rng, f"which object {doing}?", f"name the object that {doing}."), find_answer(g)


def _number(rng: np.random.Generator, groups: Sequence[Group]) -> Draw:
    kind = _pick(rng, "moving", "still", "fast", "slow")
    return _pick(rng, f"how many objects are {kind}?", f"count the objects that are {kind}."), number_answer(groups, kind)


def _lines(rng: np.random.Generator, groups: Sequence[Group]) -> Draw:
    question = _pick(rng, "list the objects, one a line.", "write the objects as a numbered list.")
    return question, "\n".join(f"{i}. {g.colour} {g.shape}" for i, g in enumerate(groups, 1))


def _json(rng: np.random.Generator, groups: Sequence[Group]) -> Draw:
    objects = [{"colour": g.colour, "shape": g.shape, "direction": g.direction, "speed": g.speed} for g in groups]
    return _pick(rng, "list the objects as JSON.", "give the scene as JSON."), json.dumps(objects)


def _repeat(rng: np.random.Generator, groups: Sequence[Group]) -> Draw:
    return _pick(rng, "repeat the text.", "say that again, word for word."), None


def _backwards(rng: np.random.Generator, groups: Sequence[Group]) -> Draw:
    return _pick(rng, "say the words backwards.", "give the words from last to first."), None


def _summary(rng: np.random.Generator, groups: Sequence[Group]) -> Draw:
    return _pick(rng, "summarise the scene.", "give a summary."), summary_answer(groups)


def _count(rng: np.random.Generator) -> Item | None:
    step, length = int(rng.choice(STEPS)), int(rng.integers(3, MAX_COUNTED + 1))
    first = int(rng.integers(0, LAST_NUMBER))
    numbers = range(first, first + step * length, step)
    if numbers[-1] > LAST_NUMBER:
        return None
    way = "up"
    if rng.random() < 0.3:
        numbers, way = numbers[::-1], "down"
    by = f" in steps of {step}" if step > 1 else ""
    prompt = f"{_pick(rng, 'count', 'go on counting')} {way} from {numbers[0]} to {numbers[-1]}{by}."
    return Item("count", prompt, count_answer(numbers))


def motion_answer(group: Group) -> str:
    doing = "stays still" if group.direction == "still" else f"moves {_SPEED_WORDS[group.speed]} {_DIRECTION_PHRASES[group.direction]}"
    return f"the {group.colour} {group.shape} {doing}."


def find_answer(group: Group) -> str:
    return f"the {group.colour} {group.shape} {_doing(group)}."


def number_answer(groups: Sequence[Group], kind: str) -> str:
    """kind: moving, still, fast or slow."""
    count = sum(kind in (g.speed, "still" if g.direction == "still" else "moving") for g in groups)
    return f"{_NUMBER_WORDS[count]} of the {_NUMBER_WORDS[len(groups)]} objects {'is' if count == 1 else 'are'} {kind}."


def summary_answer(groups: Sequence[Group]) -> str:
    shapes = Counter(g.shape for g in groups)
    kinds = _listed([f"{_NUMBER_WORDS[n] if n > 1 else 'a'} {_plural(s) if n > 1 else s}" for s, n in shapes.items()])
    still = sum(g.direction == "still" for g in groups)
    fast = [f"the {g.colour} {g.shape}" for g in groups if g.speed == "fast"]
    moving = len(groups) - still
    text = f"there are {_NUMBER_WORDS[len(groups)]} objects: {kinds}. {_NUMBER_WORDS[moving]} of them {'moves' if moving == 1 else 'move'}."
    text += f" {_listed(fast)} {'is' if len(fast) == 1 else 'are'} fast." if fast else " nothing is fast."
    return text


def backwards_answer(text: str) -> str:
    return " ".join(reversed(text.replace(".", "").split()))


def count_answer(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers)) + "."


def _doing(group: Group) -> str:
    return "stays still" if group.direction == "still" else f"moves {_DIRECTION_PHRASES[group.direction]}"


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _plural(noun: str) -> str:
    return noun + ("es" if noun.endswith(("s", "x")) else "s")


_SCENE_TASKS: dict[str, Callable[[np.random.Generator, Sequence[Group]], Draw]] = {
    "shape": _shape,
    "colour": _colour,
    "motion": _motion,
    "find": _find,
    "number": _number,
    "lines": _lines,
    "json": _json,
    "repeat": _repeat,
    "backwards": _backwards,
    "summary": _summary,
}
TASKS = (*_SCENE_TASKS, "count")
