"""YAML as the suite reads and writes it: the values of YAML 1.2, from PyYAML, which has those of YAML 1.1.

Numbers are what they look like: `1e-3`, `1.5e3` and `0o10` are numbers; `16:9`, `1:30` and `2026-01-31` are texts. `010` is refused, since
it is 8 in YAML 1.1 and 10 in YAML 1.2, and so is a name that a mapping has twice. Of YAML 1.1 remain `on`, `off`, `yes` and `no` without
quotes, which are true and false, and underscores in numbers.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Hashable
from typing import Any

import yaml

LONGEST = 40  # characters of a value that a message quotes
_TAG = "tag:yaml.org,2002:"
_TRUTH = r"yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF"
_TWO_READINGS = r"[-+]?0[0-9_]+"
_WHOLE = rf"[-+]?(?:0|[1-9][0-9_]*|0b[01_]+|0o[0-7_]+|0x[0-9a-fA-F_]+)|{_TWO_READINGS}"
_FRACTION = r"[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"


def _resolvers() -> dict[str, Any]:
    """How a text without quotes gets its type, by its first character; `null` and `<<` are PyYAML's own."""

    class Resolver(yaml.resolver.BaseResolver):
        yaml_implicit_resolvers: dict[str, Any] = {  # noqa: RUF012  (as in the base class)
            first: [pair for pair in pairs if pair[0] in (f"{_TAG}null", f"{_TAG}merge")]
            for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    for kind, pattern, first in (("bool", _TRUTH, "yYnNtTfFoO"), ("int", _WHOLE, "-+0123456789"), ("float", _FRACTION, "-+0123456789.")):
        Resolver.add_implicit_resolver(_TAG + kind, re.compile(rf"(?:{pattern})$"), list(first))
    return Resolver.yaml_implicit_resolvers


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = _resolvers()

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        names = Counter((key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<")
        if twice := [name for (_, name), count in names.items() if count > 1]:
            raise _refusal(node, f"{twice[0]!r:.80} is given twice")
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        text = str(node.value).replace("_", "")
        if re.fullmatch(_TWO_READINGS, text):
            sign, digits = text[:1].strip("0123456789"), text.lstrip("+-0") or "0"
            octal = "" if set(digits) & set("89") else f", {sign}0o{digits} for the octal number"
            numbers = f"write {sign}{digits}{octal}" if len(text) <= LONGEST else "leave the zeros at its beginning out"
            raise _refusal(node, f"{_quoted(node)} can be read in two ways; {numbers}, or {_as_text(node)}")
        try:
            return int(text, 0)
        except ValueError:
            raise _refusal(node, f"a number of {len(text)} digits is too long; put a text into quotes") from None

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        text = str(node.value).replace("_", "").lower()
        value = float(text.replace(".inf", "inf").replace(".nan", "nan"))
        if math.isinf(value) and not text.endswith("inf"):
            raise _refusal(node, f"{_quoted(node)} is too large for a number; write {_as_text(node)}")
        return value


_Loader.add_constructor(f"{_TAG}int", _Loader.construct_yaml_int)
_Loader.add_constructor(f"{_TAG}float", _Loader.construct_yaml_float)


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers  # so that it quotes what would be read otherwise


def read_yaml_text(text: str) -> Any:
    """The value. Raises ValueError, in one line with the place, where it is not YAML."""
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except yaml.MarkedYAMLError as error:
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if (mark := error.problem_mark) else ""
        raise ValueError(place + " ".join(f"{error.problem} {error.context or ''}".split())) from None
    except yaml.YAMLError as error:  # such as a control character
        raise ValueError(" ".join(str(error).split())) from None


def write_yaml_text(values: Any) -> str:
    """The YAML that read_yaml_text reads as these values."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _quoted(node: yaml.ScalarNode) -> str:
    """The value, of a long one its beginning."""
    text = str(node.value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}.."


def _as_text(node: yaml.ScalarNode) -> str:
    return f"'{node.value}' for the text" if len(str(node.value)) <= LONGEST else "quotes around the text"


def _refusal(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
