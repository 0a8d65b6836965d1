from __future__ import annotations

from pathlib import Path

import pytest

from configs.errors import ConfigError
from workloads.readers.prompt_file import read_prompts


def test_blank_lines_comments_and_a_byte_order_mark_are_skipped(tmp_path: Path) -> None:
    file = tmp_path / "p.txt"
    file.write_bytes("\ufeff# mine\n\n a red disc \r\nzwei K\u00e4tzchen\n".encode())
    assert read_prompts(str(file)) == ["a red disc", "zwei K\u00e4tzchen"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "does not exist"), (b"", "has no prompt"), (b"# only\n", "has no prompt"), (b"caf\xe9\n", "not UTF-8")],
)
def test_an_unusable_file_is_named_with_the_fix(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "p.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_prompts(str(file))
    assert str(file) in str(caught.value)
    assert "one" in str(caught.value)


def test_a_folder_is_refused_as_prompt_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder"):
        read_prompts(str(tmp_path))
