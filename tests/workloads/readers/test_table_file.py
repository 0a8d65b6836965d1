"""Tables whose content is damaged."""

from __future__ import annotations

from pathlib import Path

import pyarrow
import pyarrow.ipc
import pytest

from configs.errors import ConfigError
from workloads.readers.table_file import read_rows

LENGTH = 77  # of the text, which the file holds as offsets 0 and 77


def test_an_offset_beyond_the_end_of_an_arrow_file_is_damage(tmp_path: Path) -> None:
    """pyarrow follows it unless it is asked to check: the process ended with a signal, without a word."""
    table, file = pyarrow.Table.from_pylist([{"prompt": "x" * LENGTH}]), tmp_path / "a.arrow"
    with pyarrow.OSFile(str(file), "wb") as sink, pyarrow.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    assert [row.text("prompt") for row in read_rows(file, ("*",), "Fetch it.")] == ["x" * LENGTH]
    content = bytearray(file.read_bytes())
    at = content.rindex(b"\0\0\0\0" + LENGTH.to_bytes(4, "little"), 0, content.index(b"x" * LENGTH)) + 4
    content[at : at + 4] = b"\xff\xff\xff\x7f"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"a\.arrow' is damaged: .*\. Fetch it\."):
        list(read_rows(file, ("*",), "Fetch it."))


def test_a_table_that_is_nested_too_deeply_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"prompt": ' + "[" * 100_000 + "\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"a\.jsonl', line 1, is damaged: it is nested too deeply\. Fetch it\."):
        list(read_rows(file, ("*",), "Fetch it."))
