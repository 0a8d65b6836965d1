from __future__ import annotations

import json
from pathlib import Path

import pytest

from configs.errors import ConfigError
from workloads.llm import Language, draw_items, read_prompt_items
from workloads.world.language import TASKS


def test_the_first_samples_of_a_larger_set_are_the_smaller_set() -> None:
    assert [s.prompt for s in Language(num_prompts=30).samples()][:12] == [s.prompt for s in Language(num_prompts=12).samples()]


def test_tasks_take_turns_and_samples_say_how_they_are_scored() -> None:
    samples = list(Language(num_prompts=2 * len(TASKS)).samples())
    assert [s.meta["task"] for s in samples] == [*TASKS, *TASKS]
    assert {s.meta["scored_by"] for s in samples if s.meta["task"] == "summary"} == {"rouge"}
    assert {s.meta["scored_by"] for s in samples if s.meta["task"] != "summary"} == {"exact_match"}


def test_a_split_holds_only_its_own() -> None:
    assert all(s.meta["held_out"] for s in Language(num_prompts=18, split="held_out").samples())
    assert not any(s.meta["held_out"] for s in Language(num_prompts=18, split="train").samples())
    assert [i.task for i in draw_items(("json",), 3, "any")] == ["json"] * 3


def test_prompts_come_from_json_lines_with_their_references(tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text(
        '{"prompt": "say hi", "answer": "hi"}\n\n{"prompt": "count", "answer": "1", "scored_by": "exact_match"}\n{"prompt": "go"}\n'
    )
    samples = Language(prompts=str(file)).samples()
    assert [(s.prompt, s.meta.get("answer"), s.meta.get("scored_by")) for s in samples] == [
        ("say hi", "hi", "rouge"),
        ("count", "1", "exact_match"),
        ("go", None, None),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{prompt: x}", "line 2 of prompt file .* is not JSON"),
        (json.dumps({"text": "x"}), "line 2 of prompt file .* has no 'prompt' text"),
        (json.dumps({"prompt": "  "}), "line 2 of prompt file .* has no 'prompt' text"),
        (json.dumps({"prompt": "x", "anwser": "y"}), r"unknown field 'anwser' \(did you mean 'answer'\?\)"),
        (json.dumps({"prompt": "x", "answer": 3}), "the answer must be a text, got 3"),
        (json.dumps({"prompt": "x", "answer": "y", "scored_by": "bleu"}), "unknown scored_by 'bleu'"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text(f'{{"prompt": "good"}}\n{line}\n')
    with pytest.raises(ConfigError, match=message):
        read_prompt_items(str(file))


def test_built_in_prompts_are_found_by_name() -> None:
    samples = read_prompt_items("builtin:everyday")
    assert len(samples) == 24
    assert all(len(str(s.meta["answer"]).split()) > 15 for s in samples)
    with pytest.raises(ConfigError, match=r"unknown built-in prompt set 'everyda' \(did you mean 'everyday'\?\)"):
        read_prompt_items("builtin:everyda")


def test_unknown_task_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown task 'summry' \(did you mean 'summary'\?\)"):
        Language(tasks=["summry"])
