"""Data from outside: files, messages and logs are decoded by types, and configurations hold what JSON can hold.

Whatever is wrong with them becomes one sentence.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from configs.errors import ConfigError, first_line

T = TypeVar("T")
FORM: tuple[type[Exception], ...] = (KeyError, IndexError, TypeError, AttributeError, ArithmeticError)  # of values that have another form
ERRORS: tuple[type[Exception], ...] = (OSError, ValueError, RecursionError)
MAX_VALUES = 100_000  # a few lines of YAML with aliases of aliases describe billions
MAX_DEPTH = 50
SHOWN = 200  # characters of a library's own message, which may repeat what it read


@contextmanager
def reading(what: object, fix: str = "", failure: type[Exception] = ConfigError, also: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Errors of what is read within it become `failure`: `WHAT cannot be read (CAUSE); FIX` or `WHAT is damaged: CAUSE; FIX`.

    The errors are OSError, ValueError (also that of text in another encoding, of json and of msgspec) and RecursionError, which deep
    nesting raises. also: further ones of a library, or FORM where values are used as they stand. fix: what to do; one that begins with
    a capital is a sentence of its own.
    """
    try:
        yield
    except ConfigError:
        raise
    except (*ERRORS, *also) as error:
        end = f"{'.' if fix[0].isupper() else ';'} {fix}" if fix else ""
        raise failure(f"{what} {problem(error)}{end}") from None


def problem(error: Exception) -> str:
    """What an error says of the file that could not be read."""
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read ({error.strerror})"
    if isinstance(error, RecursionError):
        return "is damaged: it is nested too deeply"
    if isinstance(error, KeyError):
        return f"is damaged: it lacks {error}"
    if isinstance(error, UnicodeDecodeError):
        return "is damaged: it is not UTF-8"
    return f"is damaged: {first_line(error)[:SHOWN]}"


def read_json(path: Path, kind: type[T], fix: str = "") -> T:
    """The file's content as a value of that type. Raises ConfigError naming the file."""
    with reading(path, fix):
        return msgspec.json.decode(path.read_bytes(), type=kind)


def read_document(path: Path, kind: type[T], what: object = None, failure: type[Exception] = ConfigError) -> T:
    """As read_json, for a TypedDict: the values that it names are checked, and the others are in the result as they stand.

    what: how an error names the file, by default with its path. failure: what is raised.
    """
    with reading(path if what is None else what, failure=failure):
        document = msgspec.json.decode(path.read_bytes())
        msgspec.convert(document, kind)
        return document  # type: ignore[no-any-return]


def check_json_values(values: Mapping[str, Any], source: str) -> None:
    """Raises ConfigError naming a value that JSON cannot hold: NaN, infinity, bytes, dates, sets, a list within itself.

    The files of a run and the messages between its processes hold its configuration.
    """
    waiting: list[tuple[str, Any, int]] = [("", values, 0)]
    seen = 0
    while waiting:
        where, value, depth = waiting.pop()
        seen += 1
        if seen > MAX_VALUES or depth > MAX_DEPTH:
            raise ConfigError(
                f"{source}: option {where!r:.80} is nested too deeply, or has too many values; write it without aliases (&, *)"
            )
        if isinstance(value, Mapping):
            for key, inner in value.items():
                if not isinstance(key, str | int | float | bool | None):
                    raise ConfigError(f"{source}: option {where!r:.80} has the name {key!r:.80}, which is no text")
                _check_text(str(key), where, source)
                waiting.append((f"{where}.{key}".removeprefix("."), inner, depth + 1))
        elif isinstance(value, list | tuple):
            waiting += [(where, inner, depth + 1) for inner in value]
        elif isinstance(value, str):
            _check_text(value, where, source)
        elif isinstance(value, float):
            if not math.isfinite(value):
                raise ConfigError(f"{source}: option {where!r:.80} is {value}; it must be a finite number")
        elif not isinstance(value, int | None):
            raise ConfigError(
                f"{source}: option {where!r:.80} is of type {type(value).__name__}, which the files of a run cannot hold; "
                "write a number, a text, true, false, a list or a mapping"
            )


def _check_text(text: str, where: str, source: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{source}: option {where!r:.80} has a lone surrogate, which is no character: {text!r:.80}") from None
