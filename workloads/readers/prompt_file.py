"""Prompts from a file that a user brings: one reader for every workload, whose form is found by name and content (prompt_forms.py).

A prompt is a text, or the field `prompt`, else `prompt_en`, of an object or row, else the first human turn of its `conversations`, as in
ShareGPT. Conversations without a human turn are left out. In plain text, blank lines and lines that begin with # are skipped.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import ConfigError, unknown
from workloads.readers.prompt_forms import FORMS, FormError, parse
from workloads.records import check_characters

BUILT_IN = Path(__file__).parent / "prompts"  # `builtin:NAME` is a file here
PROMPT_FIELDS = ("prompt", "prompt_en")
FIX = f"give dataset.prompts {FORMS}"
ALIKE = 0.8  # of a field's name to a known one, from which it counts as misspelt; other fields belong to the data set and are not used


@dataclass(frozen=True, slots=True)
class Entry:
    """A prompt of a file. where: its line and the file, for messages. values: the object's or row's fields; empty for a text."""

    where: str
    prompt: str
    values: Mapping[str, Any]


def read_entries(path: str, fields: Sequence[str] = (), fix: str = FIX) -> list[Entry]:
    """The prompts of a file, in order; `builtin:NAME` is a set that comes with the suite.

    fields: what the workload reads beside the prompt. fix: the end of messages about the file. Raises ConfigError naming the line.
    """
    if path.startswith("builtin:"):
        known = {p.stem: str(p) for p in BUILT_IN.glob("*.jsonl")}
        if (name := path.removeprefix("builtin:")) not in known:
            raise ConfigError(unknown("built-in prompt set", name, known))
        path = known[name]
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"prompt file {path!r} does not exist; {fix}") from None
    except IsADirectoryError:
        raise ConfigError(f"prompt file {path!r} is a folder; {fix}") from None
    except OSError as error:
        raise ConfigError(f"prompt file {path!r} cannot be read: {error.strerror}; {fix}") from None
    entries = []
    try:
        for place, value in parse(content, Path(path).suffix.lower(), PROMPT_FIELDS):
            where = f"{place} of prompt file {path!r}"
            if (prompt := _prompt(value, where, fields, fix)) is None:
                continue
            values = value if isinstance(value, Mapping) else {}
            for text in (prompt, *(values.get(name) for name in fields)):
                if isinstance(text, str):
                    check_characters(text, where)
            entries.append(Entry(where, prompt, values))
    except FormError as error:
        where = f"{error.place} of prompt file {path!r}" if error.place else f"prompt file {path!r}"
        raise ConfigError(f"{where} {error.problem}; {fix}") from None
    if not entries:
        raise ConfigError(f"prompt file {path!r} has no prompt; {fix}")
    return entries


def read_prompts(path: str) -> list[str]:
    """The texts of the prompts, in order. Raises ConfigError as read_entries does."""
    return [entry.prompt for entry in read_entries(path)]


def _prompt(value: Any, where: str, fields: Sequence[str], fix: str) -> str | None:
    """The prompt; None for a conversation without a human turn. Raises ConfigError where the value has another form."""
    if isinstance(value, str):
        prompt: Any = value
    elif not isinstance(value, Mapping):
        raise ConfigError(f"{where} is neither a text nor a JSON object with a prompt; {fix}")
    else:
        for name in value:
            absent = [known for known in ("prompt", *fields) if known not in value]
            if name not in (*PROMPT_FIELDS, *fields) and difflib.get_close_matches(str(name), absent, 1, ALIKE):
                raise ConfigError(f"{where} has an {unknown('field', name, ('prompt', *fields))}")
        named = next((name for name in PROMPT_FIELDS if value.get(name) is not None), None)
        if named is None and isinstance(value.get("conversations"), list):
            turns = [turn for turn in value["conversations"] if isinstance(turn, Mapping)]
            prompt = next((turn.get("value") for turn in turns if turn.get("from") in ("human", "user")), None)
            if prompt is None:
                return None
        else:
            prompt = value.get(named) if named else None
    if not isinstance(prompt, str) or not prompt.strip():
        has = f"; it has {', '.join(map(repr, value))[:80]}" if isinstance(value, Mapping) else ""
        raise ConfigError(f"{where} has no 'prompt' text{has}; {fix}")
    return prompt
