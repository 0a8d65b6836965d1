"""Errors that are reported to the user without a traceback. Any other exception is a bug of the suite.

SuiteError
+-- ConfigError     a setting, file or folder that cannot be used
+-- PluginError     a plugin that cannot be found or imported, or that uses what it must not
+-- RunError        a run that could not be completed
    +-- GivenUpError  a run that was aborted after its start; its folder holds the finished answers
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class SuiteError(Exception):
    """Base class. The command line prints its message and no traceback."""


class ConfigError(SuiteError):
    """A setting, file or folder that cannot be used."""


class PluginError(SuiteError):
    """A plugin that cannot be found or imported, or that uses what it must not."""


class RunError(SuiteError):
    """A run that could not be completed."""


class GivenUpError(RunError):
    """A run that was aborted after its start. folder: its run folder, with outcome.json."""

    def __init__(self, message: str, folder: Path) -> None:
        super().__init__(message)
        self.folder = folder


def unknown(what: str, name: object, known: Iterable[str]) -> str:
    """`unknown WHAT 'NAME' (did you mean 'NEAREST'?); known: A, B, C`."""
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"unknown {what} {name!r:.80}{hint}; known: {', '.join(names) or 'none'}"


def first_line(error: BaseException) -> str:
    """The first line of the error's message, without a final full stop; its class where it has no message.

    A line that ends in a colon, such as torch's where tensors do not fit, comes with the next one.
    """
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return " ".join(lines[:2] if lines[0].endswith(":") else lines[:1]).rstrip(".")


def describe(error: BaseException) -> str:
    """`CLASS: first line of the message`; of the suite's own errors the message alone, which says all that a user needs."""
    if isinstance(error, SuiteError):
        return first_line(error)
    return f"{type(error).__name__}: {first_line(error) if str(error).strip() else 'no message'}"
