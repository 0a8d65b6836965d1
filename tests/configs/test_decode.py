"""Whatever is wrong with a file becomes one sentence that names it."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

import pytest

from configs.decode import read_document, read_json, reading
from configs.errors import ConfigError


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
