"""Damaged copies of small, correct files: JSON by its structure, texts line by line, everything by its bytes.

The same content and random numbers give the same copy.
"""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

JSON, LINES = (".json",), (".jsonl", ".txt", ".yaml", ".csv", ".sse")  # endings of names; other files are bytes
DEEP = 50_000  # levels of nesting, which no parser that recurses survives
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 2**31, 2**63, 2**64, -(2**63) - 1, 10**30, 0.5, -0.5, 1e-320, 1e308, -1e308),
    *(float("nan"), float("inf"), -float("inf"), "", " ", "\n", "\x00", "\x1b[2J", "\ud800", "\u2028", "1", "nan", "1e999"),
    *("../../etc/passwd", "/", "x" * 5000, "9" * 5000, "cpu", "performance", [], {}, [[]], [None], {"": None}, [1, "a", None]),
)
ODD_TEXT = (
    *("", "-1", "nan", "1e999", "9" * 400, "0x", "\ufeff", "\x00", "\x85", "\u2028", "{", "[", '"', "'", "&a *a", "!!python/none"),
    *("%", ": ", "\t", "\u0101"),
)
ODD_NUMBERS = ("", "-1", "nan", "inf", "1e999", "9" * 400, "0", "x", "1e308", "[1]")
ODD_BYTES = (
    *(b"\xff", b"\x00", b"\xed\xa0\x80", b"\xc3", b"\xef\xbb\xbf", b"\r", b"\x1a"),
    *(b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\xff\xff\xff\x7f"),
)
WHOLE = (
    b"",
    b"\n",
    b"null",
    b"[]",
    b"{}",
    b'""',
    b"0",
    b"[" * DEEP,
    b'{"a":' * DEEP,
    b"\x91" * DEEP,
    b"- " * DEEP,
    b"[" * 300 + b"]" * 300,
)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def mutated(name: str, content: bytes, rng: random.Random) -> bytes:
    """A damaged copy of the file; its name's ending says what it is."""
    suffix = PurePosixPath(name).suffix
    damage: Callable[[bytes, random.Random], bytes] = _mutated_bytes
    if suffix in JSON and rng.random() < 0.85:
        damage = _mutated_json
    elif suffix in LINES and rng.random() < 0.85:
        damage = _mutated_lines
    return damage(content, rng)


def _mutated_json(content: bytes, rng: random.Random) -> bytes:
    try:
        value = json.loads(content)
    except ValueError:
        return _mutated_bytes(content, rng)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        value = _mutated_value(value, rng)
    return _written(value, rng)


def _written(value: Any, rng: random.Random) -> bytes:
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    if rng.random() < 0.05 and '": ' in text:  # a name that an object has twice
        at = rng.choice([m.start() for m in re.finditer(r'"[^"]*": ', text)])
        text = f'{text[:at]}"{rng.choice(("run", "files", "prompt", "model"))}": 1, {text[at:]}'
    if rng.random() < 0.03:
        text = text.replace("null", "[" * DEEP + "]" * DEEP, 1)
    return text.encode("utf-8", "surrogatepass")


def _mutated_value(value: Any, rng: random.Random) -> Any:
    """A copy with one change at a random place. Places at the top are as likely as all those deep within them."""
    if not (isinstance(value, (dict, list)) and value) or rng.random() < 0.08:
        return _odd(value, rng)
    changed = copy.copy(value)
    key = rng.choice(list(changed)) if isinstance(changed, dict) else rng.randrange(len(changed))
    how = rng.random()
    if how < 0.5 and isinstance(changed[key], (dict, list)) and changed[key]:
        changed[key] = _mutated_value(changed[key], rng)
    elif how < 0.7:
        changed[key] = _odd(changed[key], rng)
    elif how < 0.82:
        del changed[key]
    elif how < 0.88 and isinstance(changed, dict):  # another value of the same object
        changed[key] = copy.deepcopy(rng.choice(list(changed.values())))
    elif how < 0.94 and isinstance(changed, dict):  # another name
        changed[rng.choice(("", "x", "name", "\ud800", f"{key} ", str(key).upper()))] = changed.pop(key)
    elif isinstance(changed, list):
        changed.insert(rng.randrange(len(changed) + 1), copy.deepcopy(rng.choice(changed)))
    else:
        changed[key] = [changed[key]]
    return changed


def _odd(value: Any, rng: random.Random) -> Any:
    how = rng.random()
    if isinstance(value, (int, float)) and not isinstance(value, bool) and how < 0.5:
        return rng.choice((-value, value + 1, value - 1, value * 1000, value * 10**12, str(value), float(value), value / 7))
    if isinstance(value, str) and how < 0.3:
        at = rng.randrange(len(value) + 1)
        return rng.choice((value[:at], value[:at] + rng.choice(ODD_TEXT) + value[at:], value.upper(), value * 3, [value], value[::-1]))
    return copy.deepcopy(rng.choice(ODD))


def _mutated_lines(content: bytes, rng: random.Random) -> bytes:
    lines = content.decode("utf-8", "surrogateescape").split("\n")
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(lines))
        how = rng.random()
        if how < 0.6:
            lines[at] = _mutated_line(lines[at], rng)
        elif how < 0.7:
            del lines[at]
        elif how < 0.8:
            lines.insert(at, rng.choice(lines))
        elif how < 0.9:
            lines.insert(at, rng.choice(ODD_TEXT))
        else:
            lines[at] = " " * rng.randrange(9) + lines[at].strip()
        lines = lines or [""]
    end = rng.choice(("\n",) * 8 + ("\r\n", "\r", "\u2028"))
    return end.join(lines).encode(
        "utf-8", "surrogatepass" if any("\ud800" <= c < "\udc80" for line in lines for c in line) else "surrogateescape"
    )


def _mutated_line(line: str, rng: random.Random) -> str:
    begin = line.find("{")
    if begin >= 0:
        try:
            value = json.loads(line[begin:])
        except ValueError:
            pass
        else:
            return line[:begin] + json.dumps(_mutated_value(value, rng), ensure_ascii=rng.random() < 0.7)
    numbers = list(_NUMBER.finditer(line))
    if numbers and rng.random() < 0.5:
        number = rng.choice(numbers)
        return line[: number.start()] + rng.choice(ODD_NUMBERS) + line[number.end() :]
    at = rng.randrange(len(line) + 1)
    return line[:at] + rng.choice(ODD_TEXT) + line[at + rng.choice((0, 0, 1, 5, 999)) :]


def _mutated_bytes(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        at = rng.randrange(len(changed) + 1)
        if rng.random() < 0.4:  # headers are at the beginning and the end
            at = min(rng.choice((rng.randrange(64), len(changed) - rng.randrange(min(64, len(changed) + 1)))), len(changed))
        how = rng.random()
        if how < 0.35 and at < len(changed):
            changed[at] = rng.randrange(256)
        elif how < 0.5:
            odd = rng.choice(ODD_BYTES)
            changed[at : at + len(odd)] = odd
        elif how < 0.6:
            changed[at:at] = rng.choice(ODD_BYTES)
        elif how < 0.7:
            del changed[at : at + rng.choice((1, 4, 100))]
        elif how < 0.76:
            del changed[at:]
        elif how < 0.82:
            changed[at:at] = changed[at : at + 100]
        elif how < 0.85:
            changed[:] = changed.decode("latin-1").encode(rng.choice(("utf-16", "utf-8-sig", "utf-32")))
        elif how < 0.87:
            changed[:] = rng.choice(
                (b"", b"\n", b"null", b"[]", b"{}", b'""', b"0", b"[" * DEEP, b'{"a":' * DEEP, b"\x91" * DEEP, b"- " * DEEP)
            )
        else:
            changed[at : at + 8] = bytes(rng.randrange(256) for _ in range(8))
    return bytes(changed[: 2**20])
