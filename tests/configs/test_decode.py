"""Whatever is wrong with a file becomes one sentence that names it, and a configuration holds what JSON can hold."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

import pytest

from configs.decode import read_document, read_json, reading
from configs.errors import ConfigError
from configs.load_config import load_config


class Thing(TypedDict, total=False):
    name: str


WRONG = {
    "not_json": (b"{", r"thing\.json is damaged: Input data was truncated; fix it"),
    "another_encoding": (b'{"name": "\xff"}', r"thing\.json is damaged: it is not UTF-8; fix it"),
    "too_deep": (b'{"other": ' + b"[" * 100_000, r"thing\.json is damaged: it is nested too deeply; fix it"),
    "another_type": (b'{"name": 1}', r"thing\.json is damaged: Expected `str`, got `int` - at `\$\.name`; fix it"),
    "a_lone_surrogate": (b'{"name": "\\ud800"}', r"thing\.json is damaged: .*; fix it"),
    "nan": (b'{"other": NaN}', r"thing\.json is damaged: .*; fix it"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_with_a_file_is_one_sentence(wrong: str, tmp_path: Path) -> None:
    content, message = WRONG[wrong]
    (tmp_path / "thing.json").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_json(tmp_path / "thing.json", Thing, "fix it")


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.json cannot be read \(No such file or directory\)"):
        read_json(tmp_path / "none.json", Thing)


def test_a_document_keeps_what_its_type_does_not_name(tmp_path: Path) -> None:
    (tmp_path / "thing.json").write_text('{"name": "a", "later": [1]}', encoding="utf-8")
    assert read_document(tmp_path / "thing.json", Thing) == {"name": "a", "later": [1]}


def test_a_long_message_of_a_library_is_cut() -> None:
    with pytest.raises(ValueError, match=r"^it is damaged: x{200}$"), reading("it", failure=ValueError):
        raise ValueError("x" * 5000)


def test_an_error_of_the_suite_stays_as_it_is() -> None:
    with pytest.raises(ConfigError, match=r"^own words$"), reading("it"):
        raise ConfigError("own words")


REFUSED = {
    "pipeline.x=.nan": "option 'pipeline.x' is nan; it must be a finite number",
    "gate={world_score: .inf}": "option 'gate.world_score' is inf; it must be a finite number",
    "load.target_latency_s=inf": "option 'load.target_latency_s' is 'inf': input should be a finite number",
    "pipeline.x=!!binary aGk=": "option 'pipeline.x' is of type bytes, which the files of a run cannot hold",
    "pipeline.x=!!timestamp 2026-01-01": "option 'pipeline.x' is of type date",
    "pipeline.x=!!set {a}": "option 'pipeline.x' is of type set",
    "pipeline.x=&a [*a]": "option 'pipeline.x' is nested too deeply",
    'pipeline.x="\\ud800"': "option 'pipeline.x' has a lone surrogate",
    "pipeline.x={? !!binary aGk= : 1}": "option 'pipeline.x' has the name b'hi', which is no text",
}


@pytest.mark.parametrize("change", REFUSED)
def test_what_json_cannot_hold_is_named(change: str) -> None:
    """Such values ended a run in a traceback, when its first file was written."""
    with pytest.raises(ConfigError) as refused:
        load_config("t2v", None, [change])
    assert REFUSED[change] in str(refused.value)


def test_aliases_of_aliases_are_not_followed_for_ever() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    with pytest.raises(ConfigError, match="has too many values; write it without aliases"):
        load_config("t2v", None, ["pipeline.x={" + ", ".join(lines) + "}"])


def test_all_that_json_has_is_taken() -> None:
    config = load_config("t2v", None, ["pipeline={name: toy_t2v, a: [1, 2.5, x, null, true], b: {1: {}}}"])
    assert config.pipeline_options == {"a": [1, 2.5, "x", None, True], "b": {1: {}}}
