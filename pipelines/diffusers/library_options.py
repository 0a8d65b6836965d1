"""Builds a library's config class from options in a YAML file, checked against the class's signature."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError

from configs.errors import ConfigError, first_line, unknown

T = TypeVar("T")


def build(
    cls: type[T], what: str, options: Mapping[str, Any], ours: Mapping[str, Any] | None = None, names: Mapping[str, Any] | None = None
) -> T:
    """Make an instance from the options. Raises ConfigError naming the option, with the nearest known name where it is unknown.

    A dtype is given by its name, an enum by its member's; an object by its class's name, or as {name: argument}, where the parameter
    has that class or a base class of it. Parameters that take a function cannot be given. ours: parameters that users cannot set.
    names: in which annotations are looked up that the class's own module does not define.
    """
    hints = {n: h for n, h in _hints(cls, names or {}).items() if n not in (ours or {})}
    values = {}
    for option, value in options.items():
        if option not in hints:
            raise ConfigError(f"{what} has {unknown('option', option, hints)}")
        try:
            values[option] = _checked(_read(value, hints[option]), hints[option])
        except (ValidationError, TypeError, ValueError) as error:
            reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
            raise ConfigError(f"{what}: option {option!r} is {value!r}: {reason[0].lower() + reason[1:]}") from None
    for option, parameter in inspect.signature(cls).parameters.items():
        if option in hints and option not in values and parameter.default is parameter.empty:
            raise ConfigError(f"{what}: option {option!r} is required")
    try:
        return cls(**values, **(ours or {}))
    except (TypeError, ValueError, AssertionError, ImportError) as error:
        raise ConfigError(f"{what}: {first_line(error)}") from error


def named(what: str, option: str, value: str | Mapping[str, Any], known: Iterable[str]) -> tuple[str, dict[str, Any]]:
    """Split an option that is a name, or a mapping with `name` and parameters, into the name and the parameters.

    Raises ConfigError where there is no name, or an unknown one.
    """
    given = {"name": value} if isinstance(value, str) else dict(value)
    known = list(known)
    if "name" not in given:
        raise ConfigError(f"{what}: option {option!r} has no 'name'; known: {', '.join(known)}")
    name = str(given.pop("name"))
    if name not in known:
        raise ConfigError(f"{what}: {unknown(option, name, known)}")
    return name, given


def _hints(cls: type, names: Mapping[str, Any]) -> dict[str, Any]:
    try:
        of_init = typing.get_type_hints(inspect.getattr_static(cls, "__init__"), localns=dict(names))
        hints = typing.get_type_hints(cls, localns=dict(names)) | of_init
    except NameError:  # an annotation that only type checkers can resolve
        hints = {}
    parameters = inspect.signature(cls).parameters.values()
    kinds = {p.name: hints.get(p.name, Any) for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name[0] != "_"}
    return {name: kind for name, kind in kinds.items() if not any(_is_function(part) for part in _parts(kind))}


def _checked(value: Any, hint: Any) -> Any:
    if not (isinstance(hint, type) and dataclasses.is_dataclass(hint)):
        return TypeAdapter[Any](hint, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
    if not isinstance(value, hint):
        raise ValueError(f"give one of {', '.join(sorted(c.__name__ for c in hint.__subclasses__()) or [hint.__name__])}")
    return value


def _read(value: Any, hint: Any) -> Any:
    """The value, with names replaced by the dtype, enum member or object that they name, where the hint allows it."""
    name, arguments = (value, ()) if isinstance(value, str) else next(iter(value.items())) if _is_call(value) else (None, ())
    if name is None:
        return value
    for part in _parts(hint):
        if part is torch.dtype and isinstance(dtype := getattr(torch, name.removeprefix("torch."), None), torch.dtype):
            return dtype
        if isinstance(part, type) and issubclass(part, enum.Enum) and name.upper() in part.__members__:
            return part[name.upper()]
        classes = [part, *part.__subclasses__()] if isinstance(part, type) and part.__module__ != "builtins" else []
        if cls := next((c for c in classes if c.__name__ == name), None):
            return cls(*(arguments if isinstance(arguments, (list, tuple)) else (arguments,)))
    return value


def _is_call(value: Any) -> bool:
    return isinstance(value, Mapping) and len(value) == 1


def _is_function(part: Any) -> bool:
    return part is typing.get_origin(typing.Callable[..., Any])


def _parts(hint: Any) -> Iterator[Any]:
    yield typing.get_origin(hint) or hint
    for part in typing.get_args(hint):
        yield from _parts(part) if not isinstance(part, list) else ()
