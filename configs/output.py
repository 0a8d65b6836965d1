"""What the suite prints: lines for people on stderr, one JSON object for programs at the end of stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any


def say(text: str) -> None:
    """Print a line for people."""
    print(f"suite: {text}", file=sys.stderr, flush=True)


def print_line(line: Mapping[str, Any]) -> None:
    """Print the last line of a command."""
    print(json.dumps(line), flush=True)
