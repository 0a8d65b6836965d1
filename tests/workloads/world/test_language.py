from __future__ import annotations

import itertools
import json
from collections import Counter

import numpy as np
import pytest

from pipelines.toy.llm import solve
from workloads.world.language import LAST_NUMBER, TASKS, draw_item, is_unseen


def test_every_answer_follows_from_its_prompt_alone() -> None:
    rng = np.random.default_rng(5)
    items = [draw_item(rng, TASKS[i % len(TASKS)]) for i in range(360)]
    wrong = [(i.prompt, i.answer, solve(i.prompt)) for i in items if solve(i.prompt) != i.answer]
    assert wrong == []


def test_training_items_never_hold_what_is_held_out() -> None:
    rng = np.random.default_rng(6)
    for task in TASKS:
        assert not any(is_unseen(draw_item(rng, task, "train")) for _ in range(60))
        assert all(is_unseen(draw_item(rng, task, "held_out")) for _ in range(20))


def test_no_answer_is_a_good_guess() -> None:
    rng = np.random.default_rng(7)
    for task in ("shape", "colour", "motion", "find", "number"):
        answers = Counter(draw_item(rng, task).answer for _ in range(400))
        assert answers.most_common(1)[0][1] < 0.1 * 400, task


def test_json_answers_are_json_and_counts_stay_in_range() -> None:
    rng = np.random.default_rng(8)
    for _ in range(40):
        objects = json.loads(draw_item(rng, "json").answer)
        assert 2 <= len(objects) <= 5
        assert {"colour", "shape", "direction", "speed"} == set(objects[0])
        numbers = [int(n) for n in draw_item(rng, "count").answer.rstrip(".").split(", ")]
        assert max(numbers) <= LAST_NUMBER
        assert len({b - a for a, b in itertools.pairwise(numbers)}) == 1


def test_unknown_task_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown task 'swim'; known: shape"):
        draw_item(np.random.default_rng(0), "swim")
