"""The result of a truth check, as report.json holds it under `truth`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True, slots=True)
class Check:
    """result: `holds`; `differs`, which makes a run INVALID; `allowed`: it differs, and the run allows that by name; or `not made`.

    message: what was compared and what the comparison showed, or why nothing could be compared.
    """

    name: str
    result: Literal["holds", "differs", "allowed", "not made"]
    message: str

    def allowed(self) -> Check:
        return replace(self, result="allowed")


def holds(name: str, message: str) -> Check:
    return Check(name, "holds", message)


def differs(name: str, message: str) -> Check:
    return Check(name, "differs", message)


def not_made(name: str, message: str) -> Check:
    return Check(name, "not made", message)
