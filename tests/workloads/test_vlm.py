from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs.errors import ConfigError
from configs.registry import make
from pipelines.toy.vlm import ToyVLM
from workloads.records import Query, Sample
from workloads.vlm import VisionLanguage
from workloads.world.scenes import BACKGROUNDS, Group, Scene, is_held_out
from workloads.world.vision import (
    ANSWERS,
    CLIP_TASKS,
    HELD_OUT_GROUNDS,
    QUESTIONS,
    TASKS,
    ask,
    catalogue_entry,
    draw_item,
    draw_scene,
    has_held_out,
    place_of,
    show,
)


def frame(image: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.asarray(Image.open(BytesIO(image)))


@pytest.fixture(scope="module")
def samples() -> Sequence[Sample]:
    return VisionLanguage().samples()


def test_the_default_set_holds_every_task_and_both_splits_alike(samples: Sequence[Sample]) -> None:
    assert [s.index for s in samples] == list(range(64))
    assert Counter(s.meta["task"] for s in samples) == dict.fromkeys(TASKS, 8)
    assert Counter((s.meta["task"], s.meta["held_out"]) for s in samples) == {(t, h): 4 for t in TASKS for h in (True, False)}


def test_guessing_the_commonest_answer_is_below_30_percent(samples: Sequence[Sample]) -> None:
    commonest = [Counter(s.meta["answer"] for s in samples if s.meta["task"] == task).most_common(1)[0][1] for task in TASKS]
    assert sum(commonest) / len(samples) < 0.30
    assert max(Counter(s.meta["answer"] for s in samples).values()) / len(samples) < 0.10


def test_questions_have_several_phrasings_and_none_reveals_the_answer(samples: Sequence[Sample]) -> None:
    for task, phrasings in QUESTIONS.items():
        questions = {s.prompt for s in samples if s.meta["task"] == task}
        assert len(phrasings) >= 2
        assert len(questions) >= 2
    assert all(str(s.meta["answer"]) not in s.prompt.split() for s in samples)


def test_a_clip_has_three_frames_and_an_image_one(samples: Sequence[Sample]) -> None:
    for sample in samples:
        assert len(sample.images) == (3 if sample.meta["task"] in CLIP_TASKS else 1)
        assert all(frame(image).shape == (48, 48, 3) for image in sample.images)


def test_a_reader_of_pixels_answers_everything(samples: Sequence[Sample]) -> None:
    responses = ToyVLM().generate(samples, [Query(s.index, s.index, 0) for s in samples])
    assert [r.text for r in responses] == [s.meta["answer"] for s in samples]


def test_the_toy_does_not_answer_what_it_cannot_read(samples: Sequence[Sample]) -> None:
    strange = [Sample(0, "who painted it?", {}, samples[0].images), Sample(1, samples[0].prompt, {}, (b"no image",)), samples[0]]
    responses = ToyVLM().generate(strange, [Query(i, i, 0) for i in range(3)])
    assert ["who painted it?" in str(responses[0].error), responses[1].error is not None, responses[2].error] == [True, True, None]


def test_a_set_is_deterministic_and_the_start_of_a_longer_one(samples: Sequence[Sample]) -> None:
    assert list(VisionLanguage(num_prompts=10).samples()) == list(samples[:10])


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_a_split_has_only_its_own_scenes(split: str) -> None:
    samples = make("workloads", "vlm", {"num_prompts": 16, "split": split, "tasks": ["colour", "direction"]}).samples()
    assert {s.meta["held_out"] for s in samples} == {split == "held_out"}
    assert {s.meta["task"] for s in samples} == {"colour", "direction"}


def test_training_scenes_show_nothing_that_is_held_out() -> None:
    rng = np.random.default_rng(0)
    for task in TASKS:
        for _ in range(100):
            scene = draw_scene(rng, task, "train")
            assert not any(HELD_OUT_GROUNDS.get((g.colour, g.shape)) == scene.background or is_held_out(g) for g in scene.groups)


def test_motion_is_held_out_only_where_it_can_be_seen() -> None:
    moving = next(
        Group("red", s, d, "slow")
        for s in ("disc", "square", "triangle", "cross")
        for d in ("left", "right", "up", "down")
        if is_held_out(Group("red", s, d, "slow"))
    )
    assert has_held_out(Scene((moving,)), clip=True)
    assert not has_held_out(Scene((moving,)), clip=False)


def test_a_colour_and_shape_are_held_out_on_one_ground_only() -> None:
    ring = Group("red", "ring", "still", "still")
    assert [has_held_out(Scene((ring,), ground), clip=False) for ground in BACKGROUNDS] == [False, False, True]
    assert not has_held_out(Scene((ring,)), clip=False)
    assert has_held_out(Scene((Group("blue", "cross", "still", "still"), ring), "checked"), clip=False)


@pytest.mark.parametrize("task", ANSWERS)
def test_every_answer_can_be_drawn(task: str) -> None:
    rng = np.random.default_rng(1)
    for answer in ANSWERS[task]:
        assert draw_item(rng, task, "held_out", answer).answer == answer


def test_a_catalogue_entry_has_a_path_of_three_levels_or_four() -> None:
    one = json.loads(catalogue_entry(Group("red", "ring", "left", "slow"), "plain"))
    assert one == {"category": "Single > Round > Ring", "colour": "red", "is_patterned": False}
    three = json.loads(catalogue_entry(Group("blue", "cross", "still", "still", 3), "striped"))
    assert three == {"category": "Set > Angular > Cross > Trio", "colour": "blue", "is_patterned": True}


def test_a_place_too_near_a_border_has_no_question() -> None:
    picture = np.full((48, 48, 3), 40, np.uint8)
    picture[14:18, 4:8] = (226, 40, 44)  # its middle lies on the border between top and middle
    assert place_of(picture) is None
    assert ask(np.random.default_rng(0), "place", Scene((Group("red", "disc", "still", "still"),)), picture[None]) is None
    picture[:] = 40
    picture[4:8, 40:44] = (226, 40, 44)
    assert place_of(picture) == "top right"


def test_of_two_objects_neither_hides_the_other() -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        scene = draw_scene(rng, "which")
        assert len({g.colour for g in scene.groups}) == len({g.shape for g in scene.groups}) == 2
        (picture,) = show(rng, "which", scene)
        assert (np.ptp(picture.astype(int), axis=-1) > 80).sum() > 100  # two objects' worth of pixels


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_prompts": 0}, "'num_prompts' must be at least 1, got 0"),
        ({"tasks": []}, "'tasks' must not be empty; known: colour"),
        ({"tasks": ["color"]}, r"unknown task 'color' \(did you mean 'colour'\?\)"),
        ({"split": "test"}, "option 'split' is 'test'"),
    ],
)
def test_an_unusable_option_is_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make("workloads", "vlm", options)


def test_an_unknown_task_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="unknown task 'sound'; known: colour"):
        draw_scene(np.random.default_rng(0), "sound")


def write(folder: Path, *lines: object) -> str:
    file = folder / "mine.jsonl"
    file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return str(file)


def test_questions_of_a_file_have_paths_relative_to_its_folder(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"one")
    (tmp_path / "b.jpg").write_bytes(b"two")
    path = write(
        tmp_path,
        {"prompt": "what is it?", "images": ["pictures/a.png"], "answer": "a cat"},
        "",
        {"prompt": "and now?", "images": ["pictures/a.png", str(tmp_path / "b.jpg")]},
        {"prompt": "as JSON", "images": ["b.jpg"], "answer": {"category": "A > B"}},
    )
    samples = VisionLanguage(prompts=path).samples()
    assert [(s.index, s.prompt, s.images) for s in samples] == [
        (0, "what is it?", (b"one",)),
        (1, "and now?", (b"one", b"two")),
        (2, "as JSON", (b"two",)),
    ]
    assert [s.meta for s in samples] == [
        {"task": "own", "answer": "a cat"},
        {"task": "own"},
        {"task": "own", "answer": '{"category": "A > B"}'},
    ]
    assert len(VisionLanguage(prompts=path, num_prompts=2).samples()) == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{'prompt': 1}", "line 2 of prompt file .* is not JSON"),
        ([1], "line 2 .* is neither a text nor a JSON object with a prompt"),
        ({"images": ["a.png"]}, "line 2 .* has no 'prompt' text"),
        ({"prompt": " ", "images": ["a.png"]}, "line 2 .* has no 'prompt' text"),
        ({"prompt": "x"}, "line 2 .* has no 'images' list"),
        ({"prompt": "x", "images": "a.png"}, "line 2 .* has no 'images' list"),
        ({"prompt": "x", "images": []}, "line 2 .* has no 'images' list"),
        ({"prompt": "x", "images": ["a.png"], "anser": "y"}, r"unknown field 'anser' \(did you mean 'answer'\?\)"),
        ({"prompt": "x", "images": ["none.png"]}, "line 2 .*: image 'none.png' does not exist"),
        ({"prompt": "x", "images": ["."]}, "line 2 .*: image '.' cannot be read: Is a directory"),
    ],
)
def test_a_wrong_line_is_named_with_its_number(tmp_path: Path, line: object, message: str) -> None:
    (tmp_path / "a.png").write_bytes(b"one")
    path = write(tmp_path, {"prompt": "x", "images": ["a.png"]}, line)
    with pytest.raises(ConfigError, match=message) as caught:
        VisionLanguage(prompts=path).samples()
    assert path in str(caught.value)


@pytest.mark.parametrize(("content", "message"), [(None, "does not exist"), (b"\n\n", "has no prompt"), (b"\xff\xfe\xff", "is not UTF-8")])
def test_an_unusable_prompt_file_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "p.jsonl"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        VisionLanguage(prompts=str(file)).samples()
    assert str(file) in str(caught.value)


def test_a_folder_is_refused_as_prompt_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder"):
        VisionLanguage(prompts=str(tmp_path)).samples()
