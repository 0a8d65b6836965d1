"""The forms of a file of prompts, as data sets come in them, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from configs.errors import ConfigError
from workloads.llm import Language
from workloads.readers.prompt_file import read_entries, read_prompts
from workloads.t2v import TextToVideo

VBENCH = [  # VBench_full_info.json
    {"prompt_en": "In a still frame, a stop sign", "dimension": ["temporal_flickering"]},
    {"prompt_en": "a toilet, frozen in time", "dimension": ["temporal_flickering"], "auxiliary_info": {"object": "toilet"}},
]
SHAREGPT = [
    {"id": "a", "conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]},
    {"id": "b", "conversations": []},
    {"id": "c", "conversations": [{"from": "gpt", "value": "and?"}, {"from": "human", "value": "more"}]},
]
LINES = '{"prompt": "one", "category": "x"}\n\n"two"\r\n{"prompt_en": "three"}\n'


def prompts_of(folder: Path, name: str, content: str | bytes) -> list[str]:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_prompts(str(folder / name))


def refusal(folder: Path, name: str, content: str | bytes) -> str:
    with pytest.raises(ConfigError) as caught:
        prompts_of(folder, name, content)
    assert "\n" not in str(caught.value)
    assert repr(str(folder / name)) in str(caught.value)
    return str(caught.value)


def test_blank_lines_comments_and_a_byte_order_mark_are_skipped(tmp_path: Path) -> None:
    text = "\ufeff# mine\n\n a red disc \r\nzwei K\u00e4tzchen\n"
    assert prompts_of(tmp_path, "p.txt", text) == ["a red disc", "zwei K\u00e4tzchen"]


@pytest.mark.parametrize("name", ["p.json", "p.JSON", "p.txt", "p", "p.jsonl"])
@pytest.mark.parametrize(
    ("values", "prompts"),
    [
        (VBENCH, ["In a still frame, a stop sign", "a toilet, frozen in time"]),
        (SHAREGPT, ["hi", "more"]),
        (["a cat", "a dog"], ["a cat", "a dog"]),
        ({"prompts": ["a cat", "a dog"]}, ["a cat", "a dog"]),
        ({"prompt": "a cat", "seed": 3}, ["a cat"]),
    ],
)
def test_json_is_read_by_its_content_however_it_is_laid_out_and_named(tmp_path: Path, name: str, values: Any, prompts: list[str]) -> None:
    assert prompts_of(tmp_path, name, json.dumps(values, indent=4)) == prompts
    assert prompts_of(tmp_path, name, json.dumps(values)) == prompts


@pytest.mark.parametrize("name", ["p.jsonl", "p.JSONL", "p.ndjson", "p.txt", "p.prompts"])
def test_json_lines_are_read_whatever_their_name(tmp_path: Path, name: str) -> None:
    assert prompts_of(tmp_path, name, LINES) == ["one", "two", "three"]
    assert [s.prompt for s in TextToVideo(prompts=str(tmp_path / name)).samples()] == ["one", "two", "three"]
    assert [s.prompt for s in Language(prompts=str(tmp_path / name)).samples()] == ["one", "two", "three"]


@pytest.mark.parametrize("name", ["p.csv", "p.CSV", "p.txt"])
def test_a_table_is_read_by_its_column_of_prompts(tmp_path: Path, name: str) -> None:
    text = 'Category,Prompt,answer\r\n\r\nanimals,"a cat, a ""dog""\nand more",yes\r\nplaces,a hill,\r\n'
    assert prompts_of(tmp_path, name, text) == ['a cat, a "dog"\nand more', "a hill"]
    assert [s.meta for s in Language(prompts=str(tmp_path / name)).samples()] == [{"answer": "yes", "scored_by": "rouge"}, {}]
    assert prompts_of(tmp_path, "p.tsv", "Prompt\tNote\na cat, asleep\tx\n") == ["a cat, asleep"]


def test_only_line_feeds_and_carriage_returns_end_a_line(tmp_path: Path) -> None:
    prompts = [f"a{mark}b" for mark in ("\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e")]
    for end in ("\n", "\r\n", "\r"):
        assert prompts_of(tmp_path, "p.txt", end.join([*prompts, f"{prompts[0]}\u2028"])) == [*prompts, f"{prompts[0]}\u2028"]
        lines = end.join(json.dumps({"prompt": prompt}, ensure_ascii=False) for prompt in prompts)
        assert prompts_of(tmp_path, "p.jsonl", lines) == prompts
        assert prompts_of(tmp_path, "p.csv", "prompt" + end + end.join(f'"{prompt}"' for prompt in prompts)) == prompts


def test_text_that_only_begins_like_json_is_text(tmp_path: Path) -> None:
    lines = ["[cinematic] a cat", "{red|blue} dog", "[1] first", "prompt: a cat, a dog"]
    for line in lines:
        assert prompts_of(tmp_path, "p.txt", f"{line}\na hill\n") == [line, "a hill"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", "", "has no prompt; give dataset.prompts a text file with one prompt a line, JSON lines or a JSON array"),
        ("p.txt", "# only\n", "has no prompt"),
        ("p.txt", "version https://git-lfs.github.com/spec/v1\noid sha256:ab\n", "is a Git LFS pointer and not the file itself"),
        ("p.csv", "\n<!DOCTYPE html>\n<title>404</title>\n", "is a web page; download the file itself"),
        ("p.json", "[]", "has no prompt"),
        ("p.txt", b"good\ncaf\xe9\n", "line 2 of prompt file"),
        ("p.txt", b"good\ncaf\xe9\n", "is not UTF-8 (byte 8); save the file as UTF-8"),
        ("p.txt", "a cat".encode("utf-16"), "is not UTF-8 but UTF-16"),
        ("p.txt", "a\0cat", "is not a text"),
        ("p.yaml", "- a cat", "is of an unknown form (.yaml); give dataset.prompts a text file"),
        ("p.parquet", b"PAR1", "is of an unknown form (.parquet)"),
        ("p.md", "# A list\n- a cat", "is of an unknown form (.md)"),
        ("p.txt", '[\n  "a cat",\n  a dog\n]', "line 3 of prompt file"),
        ("p.txt", '[\n  "a cat",\n  a dog\n]', "is not JSON (Expecting value)"),
        ("p.txt", '{"prompt": "a"}\nb\n', "line 2 of prompt file"),
        ("p.txt", 'b\n{"prompt": "a"}\n', "is a JSON object among lines of text"),
        ("p.json", '["a cat", "a dog"', "is not JSON (Expecting ',' delimiter)"),
        ("p.json", '["a cat"] "a dog"', "is not JSON (Extra data)"),
        ("p.json", '["a cat"', "is not JSON"),
        pytest.param("p.json", "[" * 100_000, "nested too deeply", id="deep"),
        pytest.param("p.json", "9" * 5000, "a number has too many digits", id="digits"),
        pytest.param("p.jsonl", '{"prompt": "a"}\n' + "[" * 100_000, "line 2 of prompt file", id="deep line"),
        ("p.json", "[3]", "line 1 of prompt file"),
        ("p.json", "[3]", "is neither a text nor a JSON object with a prompt"),
        ("p.json", '[\n"a",\n{"text": "a cat"}]', "line 3 of prompt file"),
        ("p.json", '[{"text": "a cat"}]', "has no 'prompt' text; it has 'text'"),
        ("p.json", '[{"prompt": ["a cat"]}]', "has no 'prompt' text"),
        ("p.json", '[{"prompt": " "}]', "has no 'prompt' text"),
        ("p.json", '[{"promt": "a cat"}]', "has an unknown field 'promt' (did you mean 'prompt'?)"),
        ("p.csv", "text,id\na cat,1\n", "has no column 'prompt' or 'prompt_en' in its first row; it has 'text', 'id'"),
        ("p.csv", "prompt,id\na cat, a dog,1\n", "line 2 of prompt file"),
        ("p.csv", "prompt,id\na cat, a dog,1\n", "has 3 cells, but the first row has 2"),
        ("p.csv", 'prompt\n"a cat\n', "is not a row of a table"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": "b \\ud83d"}\n', "line 2 of prompt file"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": "b \\ud83d"}\n', "has the lone surrogate U+D83D, half of a character"),
        ("p.json", '[\n"a",\n\n"\\udc00"]', "line 4 of prompt file"),
    ],
)
def test_another_form_is_refused_by_name_and_line(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    assert message in refusal(tmp_path, name, content)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path, message in ((tmp_path / "gone.txt", "does not exist"), (tmp_path, "is a folder")):
        with pytest.raises(ConfigError, match=message):
            read_prompts(str(path))


def test_a_surrogate_in_a_field_that_is_used_is_refused_and_in_another_is_not(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('[{"prompt": "\\ud83d\\ude00", "answer": "\\ud83d", "note": "\\ud83d"}]')
    assert read_entries(str(tmp_path / "p.json"))[0].prompt == "\U0001f600"
    with pytest.raises(ConfigError, match=r"line 1 of prompt file .* has the lone surrogate U\+D83D"):
        Language(prompts=str(tmp_path / "p.json")).samples()
