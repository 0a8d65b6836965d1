"""Compares what a program answered with what is expected.

A program writes the value that its function returned as text: as JSON where that gives the same value back, else as Python writes it.
"""

from __future__ import annotations

import ast
import json
from decimal import Decimal, InvalidOperation
from typing import Any

_JSON, _PYTHON = b"j", b"p"


def write_value(value: Any) -> bytes:
    """The value as text. JSON is read 40 times as fast as Python's notation and in a fraction of its memory."""
    try:
        text = json.dumps(value)
        if json.loads(text) == value:  # not of a tuple, nor of numbers as keys
            return _JSON + text.encode()
    except (TypeError, ValueError, RecursionError):
        pass
    return _PYTHON + repr(value).encode(errors="surrogatepass")


def same_value(written: bytes, expected: Any) -> bool:
    """Whether the value is the expected one; a tuple is as good as a list."""
    kind, text = written[:1], written[1:].decode(errors="surrogatepass")
    try:
        value = json.loads(text) if kind == _JSON else ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, TypeError):
        return False
    return bool((list(value) if isinstance(value, tuple) else value) == expected)


def same_lines(actual: str, expected: str) -> bool:
    """Compare line by line without surrounding space; where two lines differ, as decimal numbers."""
    ours, theirs = (text.strip().split("\n") for text in (actual, expected))
    return len(ours) == len(theirs) and all(_same_line(a.strip(), b.strip()) for a, b in zip(ours, theirs, strict=True))


def _same_line(actual: str, expected: str) -> bool:
    if actual == expected:
        return True
    try:
        return [Decimal(word) for word in actual.split()] == [Decimal(word) for word in expected.split()]
    except InvalidOperation:
        return False
