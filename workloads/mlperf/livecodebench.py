"""LiveCodeBench's problems: tests by question, from its own files (livecodebench/code_generation_lite on the hub).

Fields: question_id, public_test_cases (JSON), private_test_cases (JSON, or JSON in a pickled text, compressed, in base64), metadata (JSON;
func_name where a function is to be written). A pickle is accepted only if it holds nothing but one text.
"""

from __future__ import annotations

import base64
import io
import json
import pickle
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

import msgspec

from configs.decode import reading
from configs.errors import first_line
from workloads.readers.table_file import Row, read_rows

_FIX = "Fetch LiveCodeBench's tests: hf download livecodebench/code_generation_lite --repo-type dataset --local-dir data/livecodebench"
_PATTERNS = ("test*.jsonl", "*.parquet", "*.arrow")


class Test(TypedDict):
    input: str
    output: str
    kind: Literal["stdin", "functional"]


@dataclass(frozen=True, slots=True)
class Problem:
    """function: what functional tests call."""

    tests: Sequence[Test]
    function: str | None


class _TextOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it holds more than a text: {module}.{name}")


def problem_of(meta: Mapping[str, Any]) -> Problem | None:
    """The tests that a sample itself carries."""
    if "tests" not in meta:
        return None
    with reading("a sample's tests"):
        return Problem(msgspec.json.decode(meta["tests"], type=list[Test]), msgspec.convert(meta.get("function_name"), str | None))


def read_problems(path: Path, wanted: set[str]) -> Iterator[tuple[str, Problem]]:
    """The wanted questions that the files have, each once. Raises ConfigError naming file, row and field."""
    left = set(wanted)
    for row in read_rows(path, _PATTERNS, _FIX):
        question = row.text("question_id")
        if question in left:
            left.remove(question)
            yield question, _problem(row)
        if not left:
            return


def _problem(row: Row) -> Problem:
    metadata = _json(row, "metadata", row.values.get("metadata") or "{}")
    if not isinstance(metadata, Mapping):
        raise row.wrong("metadata", "must be a JSON object")
    listed: list[Mapping[str, Any]] = []
    for field in ("public_test_cases", "private_test_cases"):
        tests = _json(row, field, row.text(field))
        if not isinstance(tests, list) or not all(_is_test(t) for t in tests):
            raise row.wrong(field, "must be a list of tests with texts 'input' and 'output'")
        listed += tests
    function = metadata.get("func_name")
    if not isinstance(function, str | None):
        raise row.wrong("metadata", "must name a function by func_name")
    kind: Literal["stdin", "functional"] = "functional" if function else "stdin"  # as LiveCodeBench's own runner decides
    return Problem([{"input": t["input"], "output": t["output"], "kind": kind} for t in listed], function)


def _is_test(test: Any) -> bool:
    return isinstance(test, Mapping) and isinstance(test.get("input"), str) and isinstance(test.get("output"), str)


def _json(row: Row, field: str, text: Any) -> Any:
    if not isinstance(text, str):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        inner = _TextOnly(io.BytesIO(zlib.decompress(base64.b64decode(text, validate=True)))).load()
        return json.loads(inner)
    except Exception as error:  # unpickling raises many kinds
        raise row.wrong(field, f"is not JSON, plain or packed ({first_line(error)[:80]})") from None
