"""A plugin's options as its dataclass and its docstring describe them: name, type, default and meaning."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Any, NamedTuple


class PluginOption(NamedTuple):
    """type: as written in the source. default: None where the option is required. meaning: empty where the docstring has none."""

    name: str
    type: str
    default: str | None
    meaning: str

    @property
    def text(self) -> str:
        default = "required" if self.default is None else f"default {self.default or repr('')}"
        return f"{self.name}  ({self.type}; {default})" + (f"\n      {self.meaning}" if self.meaning else "")


def plugin_options(cls: type[Any]) -> list[PluginOption]:
    """The options of a plugin's dataclass, in the order of its fields.

    A docstring explains an option as `name: meaning.`, several at once as `name, other: meaning.`; the first sentence is taken.
    """
    fields = [field for field in dataclasses.fields(cls) if field.init]
    meanings: dict[str, str] = {}
    for base in reversed(cls.__mro__):  # a class that shares its options with others says what they are in its base
        meanings |= _meanings(inspect.cleandoc(base.__doc__ or ""), {field.name for field in fields})
    return [PluginOption(field.name, _type(field.type), _default(field), meanings.get(field.name, "")) for field in fields]


def summary(cls: type[Any]) -> str:
    """The docstring's first paragraph, as one line."""
    return " ".join((inspect.getdoc(cls) or "").partition("\n\n")[0].split())


def _meanings(docstring: str, names: set[str]) -> dict[str, str]:
    name = "|".join(sorted(names, key=len, reverse=True)) or "(?!)"
    heading = re.compile(rf"(?:(?<=^)|(?<=[.;:)]\s)|(?<=\n))((?:{name})(?:,\s(?:{name}))*):\s", re.MULTILINE)
    matches = list(heading.finditer(docstring))
    found: dict[str, str] = {}
    for match, following in zip(matches, [*matches[1:], None], strict=False):
        text = docstring[match.end() : following.start() if following else len(docstring)].partition("\n\n")[0]
        sentence = re.split(r"(?<=[\w)`'\"])[.;](?=\s|$)", " ".join(text.split()), maxsplit=1)[0]
        for one in re.split(r",\s", match.group(1)):
            found.setdefault(one, sentence)
    return found


def _type(annotation: Any) -> str:
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    return re.sub(r"Literal\[([^\]]*)\]", lambda m: " | ".join(word.strip("\"' ") for word in m.group(1).split(",")), text)


def _default(field: dataclasses.Field[Any]) -> str | None:
    if field.default is not dataclasses.MISSING:
        return str(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return str(field.default_factory())
    return None
