"""What a user can get wrong. Anything else that is raised is a bug of ours.

SuiteError
+-- ConfigError     a setting, file or folder that cannot be used as it is
+-- PluginError     a plugin that cannot be found or imported
+-- RunError        a run that could not be carried through
    +-- GivenUpError  one that had begun; its folder holds what was finished
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class SuiteError(Exception):
    """Shown to the user as one message, without a traceback."""


class ConfigError(SuiteError):
    """A setting, file or folder that cannot be used as it is."""


class PluginError(SuiteError):
    """A plugin that cannot be found or imported."""


class RunError(SuiteError):
    """A run that could not be carried through."""


class GivenUpError(RunError):
    """A run that had begun. folder: what it left, outcome.json among it."""

    def __init__(self, message: str, folder: Path) -> None:
        super().__init__(message)
        self.folder = folder


def unknown(what: str, name: object, known: Iterable[str]) -> str:
    """`unknown WHAT 'NAME' (did you mean 'NEAREST'?); known: A, B, C`."""
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"unknown {what} {name!r}{hint}; known: {', '.join(names) or 'none'}"


def first_line(error: BaseException) -> str:
    """The first line of the error's message, without a final full stop; its class where it has no message."""
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(".") if lines else type(error).__name__


def describe(error: BaseException) -> str:
    """`CLASS: first line of the message`."""
    return f"{type(error).__name__}: {first_line(error) if str(error).strip() else 'no message'}"
