"""What the suite prints: lines and tables for people on stderr, one JSON object for programs at the end of stdout.

Prompts, answers, errors and names come from models, servers and files. Printed as they are, they could move the cursor, rename the window
or reverse the order of a line. All output goes through here, where characters that control a terminal are shown by their codes.
"""

from __future__ import annotations

import json
import re
import sys
import threading
import traceback
import warnings
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

# Control characters but tab and newline, both controls of a line's direction and characters without width, lone surrogates, and tags.
# U+200C and U+200D stay: scripts and emoji need them.
_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)


def printable(text: str) -> str:
    r"""The text with each character that controls a terminal as its code, such as \x1b or \u202e; tabs and newlines stay."""
    return _CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def say(text: str) -> None:
    """Print a line for people."""
    echo(f"suite: {text}", to_stderr=True)


def has_display() -> bool:
    """Whether a live display can be shown; lines tell how far a run is where not."""
    return sys.stdout.isatty() and sys.stderr.isatty()


def echo(text: str, to_stderr: bool = False) -> None:
    """Print text for people as it is, but for control characters."""
    print(printable(text), file=sys.stderr if to_stderr else sys.stdout, flush=True)


def print_line(line: Mapping[str, Any]) -> None:
    """Print the last line of a command."""
    print(json.dumps(line).replace("\x7f", "\\u007f"), flush=True)  # all other characters are in ASCII already


def print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """As Python prints an error that nothing handles."""
    echo("".join(traceback.format_exception(kind, error, trace)).rstrip("\n"), to_stderr=True)


def handle_errors_and_warnings() -> None:
    """For a process's start: what Python prints by itself is printable too."""
    sys.excepthook = print_traceback
    threading.excepthook = _print_thread_traceback
    warnings.showwarning = _print_warning


def open_console(width: int | None = None) -> Console:
    """For tables on stderr. Texts are printed as they are, without markup; `styled` colours. width: where stderr is no terminal."""
    from rich.console import Console

    class Terminal(Console):
        def render_str(self, text: str, **how: Any) -> Text:  # rich calls it for every str, in tables too, before it measures widths
            return super().render_str(printable(text), **how)

    return Terminal(stderr=True, highlight=False, markup=False, emoji=False, width=None if sys.stderr.isatty() else width)


def styled(text: str, style: str) -> Text:
    """Text for a console, in a style of rich's, such as `bold red`."""
    from rich.text import Text

    return Text(printable(text), style=style)


def _print_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None, line: str | None = None
) -> None:
    echo(warnings.formatwarning(str(message), category, filename, lineno, line).rstrip("\n"), to_stderr=True)


def _print_thread_traceback(ended: threading.ExceptHookArgs) -> None:
    if ended.exc_type is not SystemExit and ended.exc_value is not None:
        say(f"an error in thread {ended.thread.name if ended.thread else 'unknown'}:")
        print_traceback(ended.exc_type, ended.exc_value, ended.exc_traceback)
