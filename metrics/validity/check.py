"""A truth check's result, as it stands in report.json under `truth`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True, slots=True)
class Check:
    """result: `holds`; `differs`, which makes a run INVALID; `allowed`: it differs, and the run was let off by name; or `not made`.

    told: what was compared and what came of it, or why nothing could be.
    """

    name: str
    result: Literal["holds", "differs", "allowed", "not made"]
    told: str

    def allowed(self) -> Check:
        return replace(self, result="allowed")


def holds(name: str, told: str) -> Check:
    return Check(name, "holds", told)


def differs(name: str, told: str) -> Check:
    return Check(name, "differs", told)


def not_made(name: str, told: str) -> Check:
    return Check(name, "not made", told)
