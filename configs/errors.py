"""What a user can get wrong. Anything else that is raised is a bug of ours.

SuiteError
+-- ConfigError     a setting, file or folder that cannot be used as it is
+-- PluginError     a plugin that cannot be found or imported
+-- RunError        a run that could not be carried through
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SuiteError(Exception):
    """Shown to the user as one message, without a traceback."""


class ConfigError(SuiteError):
    """A setting, file or folder that cannot be used as it is."""


class PluginError(SuiteError):
    """A plugin that cannot be found or imported."""


class RunError(SuiteError):
    """A run that could not be carried through."""


def unknown(what: str, name: object, known: Iterable[str]) -> str:
    """`unknown WHAT 'NAME' (did you mean 'NEAREST'?); known: A, B, C`."""
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"unknown {what} {name!r}{hint}; known: {', '.join(names) or 'none'}"
