"""The forms of a file of prompts: plain text, JSON lines, a JSON array or object, a table. Found by the file's name and its content.

Only \\n, \\r\\n and \\r end a line: a form feed, U+0085 and U+2028 are part of a prompt.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

FORMS = (
    'a text file with one prompt a line, JSON lines or a JSON array of texts or of objects with "prompt", "prompt_en" or ShareGPT\'s '
    '"conversations", or a .csv or .tsv file with a column "prompt" or "prompt_en"'
)
TEXTS = (".txt", ".text", ".prompt", ".prompts", ".list", ".lst")
JSONS = (".json", ".jsonl", ".ndjson")
TABLES = {".csv": ",", ".tsv": "\t"}
NOT_PROMPTS = {  # what a download that failed leaves in the place of a file
    "version https://git-lfs": "is a Git LFS pointer and not the file itself; run git lfs pull",
    "<!doctype html": "is a web page; download the file itself",
    "<html": "is a web page; download the file itself",
}
CONTAINERS = ("prompts", "data")  # fields of a JSON object that may hold the array
_LINE_END = re.compile(r"\r\n|\n|\r")
_JSON_BEGINS = re.compile(r'\[\s*$|\{\s*$|\[\s*[\[{"]|\{\s*"')  # a line of text that can only be meant as JSON
_BLANK = re.compile(r"[ \t\r\n]*")


class FormError(ValueError):
    """A file of another form. place: `line 3`; empty for the whole file. problem: the rest of a sentence about it."""

    def __init__(self, place: str, problem: str) -> None:
        super().__init__(f"{place} {problem}")
        self.place, self.problem = place, problem


def parse(content: bytes, suffix: str, columns: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """The place (`line 3`) and value of each entry: a text, an object, or anything else that JSON has.

    suffix: of the file's name, in lower case; any that is not of letters, such as `.2`, is part of the name. columns: of a table, one of
    which must be there. Raises FormError.
    """
    if suffix not in (*TEXTS, *JSONS, *TABLES) and suffix[1:].isalpha():
        raise FormError("", f"is of an unknown form ({suffix})")
    text = _decode(content)
    for beginning, what in NOT_PROMPTS.items():
        if text.lstrip()[: len(beginning)].lower() == beginning:
            raise FormError("", what)
    if suffix in JSONS:
        return _json_values(text)
    if suffix in TABLES:
        return _rows(text, TABLES[suffix], columns)
    return _text_values(text, columns)


def _decode(content: bytes) -> str:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise FormError("", "is not UTF-8 but UTF-16; save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place = f"line {len(_LINE_END.findall(content[: error.start].decode('utf-8', 'replace'))) + 1}"
        raise FormError(place, f"is not UTF-8 (byte {error.start}); save the file as UTF-8") from None
    if "\0" in text:
        raise FormError("", "is not a text (it has zero bytes)")
    return text


def _text_values(text: str, columns: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Plain text, unless its content is JSON or a table."""
    lines = [(number, line.strip(" \t")) for number, line in enumerate(_LINE_END.split(text), 1) if line.strip()]
    lines = [(number, line) for number, line in lines if not line.startswith("#")]
    first = lines[0][1] if lines else ""
    if first.startswith(("[", "{")):
        try:
            yield from list(_json_values(text))
            return
        except FormError:
            if _JSON_BEGINS.match(first):
                raise
    for delimiter in TABLES.values():
        if {cell.strip(' "').lower() for cell in first.split(delimiter)} & set(columns):
            yield from _rows(text, delimiter, columns)
            return
    for number, line in lines:
        if line.startswith('{"') and isinstance(_json_or_none(line), dict):
            raise FormError(f"line {number}", "is a JSON object among lines of text")
        yield f"line {number}", line


def _json_values(text: str) -> Iterator[tuple[str, Any]]:
    """Of a JSON array or object, or of JSON lines."""
    decoder, start = json.JSONDecoder(), _end_of_blank(text, 0)
    if start == len(text):
        return
    try:
        if text[start] == "[":
            yield from _array_values(text, start, decoder)
            return
        value, end = decoder.raw_decode(text, start)
    except json.JSONDecodeError as error:
        raise FormError(f"line {error.lineno}", f"is not JSON ({error.msg})") from None
    except (RecursionError, ValueError) as error:  # ValueError: a number with more digits than Python reads
        raise FormError("", f"is not JSON that can be read ({_reason(error)})") from None
    if _end_of_blank(text, end) < len(text):
        yield from _json_lines(text)
        return
    inner = next((value[name] for name in CONTAINERS if isinstance(value, dict) and isinstance(value.get(name), list)), None)
    if inner is None:
        yield "line 1", value
    else:
        yield from ((f"entry {number}", one) for number, one in enumerate(inner, 1))


def _array_values(text: str, start: int, decoder: json.JSONDecoder) -> Iterator[tuple[str, Any]]:
    """One value after another, since a value's line is not known once the array is read as a whole."""
    line, counted, at = 1, 0, _end_of_blank(text, start + 1)
    while at < len(text) and text[at] != "]":
        line, counted = line + len(_LINE_END.findall(text, counted, at)), at
        value, at = decoder.raw_decode(text, at)
        yield f"line {line}", value
        at = _end_of_blank(text, at)
        if text[at : at + 1] == ",":
            at = _end_of_blank(text, at + 1)
        elif text[at : at + 1] != "]":
            raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
    if _end_of_blank(text, at + 1) < len(text) or at >= len(text):
        raise json.JSONDecodeError("Extra data" if at < len(text) else "Expecting value", text, min(at + 1, len(text)))


def _json_lines(text: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(_LINE_END.split(text), 1):
        if not line.strip():
            continue
        try:
            yield f"line {number}", json.loads(line)
        except (ValueError, RecursionError) as error:
            raise FormError(f"line {number}", f"is not JSON ({_reason(error)})") from None


def _rows(text: str, delimiter: str, columns: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Rows of a table as objects, without their empty cells; names of columns in lower case."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] = []
    try:
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            if not header:
                header = [cell.strip().lower() for cell in row]
                if not set(header) & set(columns):
                    named = " or ".join(map(repr, columns))
                    raise FormError("", f"has no column {named} in its first row; it has {', '.join(map(repr, header))[:80]}")
                continue
            if len(row) != len(header):
                raise FormError(f"line {reader.line_num}", f"has {len(row)} cells, but the first row has {len(header)}")
            yield f"line {reader.line_num}", {name: cell for name, cell in zip(header, row, strict=True) if cell.strip()}
    except csv.Error as error:
        raise FormError(f"line {reader.line_num}", f"is not a row of a table ({error})") from None


def _reason(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    return "nested too deeply" if isinstance(error, RecursionError) else "a number has too many digits"


def _json_or_none(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _end_of_blank(text: str, start: int) -> int:
    match = _BLANK.match(text, start)
    return match.end() if match else start
