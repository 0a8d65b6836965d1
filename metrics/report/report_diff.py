"""Compares a report with the one that a bundle came with."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Required, TypedDict

from configs.decode import read_document
from configs.errors import ConfigError
from configs.output import open_console
from pipelines.devices.system import package_versions
from pipelines.launcher.provenance import suite_commit
from workloads.run_folder.manifest import read_manifest
from workloads.run_folder.outcome import read_system

SHOWN = 5
ROUNDING = 1e-6
WHOLE_SENTENCES = ("notice", "reasons", "notes")  # parts of report.json that are nothing else
SENTENCES = {"figures": "note", "truth": "told", "gates": "why", "attempts": "note"}  # parts whose entries have one each


class FigureEntry(TypedDict, total=False):
    value: Required[float | None]
    ci95: tuple[float, float] | None


class GateEntry(TypedDict):
    figure: str
    value: float | None
    target: float
    holds: bool | None


class SampleEntry(TypedDict):
    sample_index: int
    text: str | None
    media: str | None
    scores: dict[str, float]


class CheckEntry(TypedDict):
    name: str


class ReportFile(TypedDict, total=False):
    """report.json, as far as it is read again."""

    brief: bool
    verdict: Required[str]
    mode: str
    figures: Required[dict[str, FigureEntry]]
    gates: Required[list[GateEntry]]
    samples: Required[list[SampleEntry]]
    truth: list[CheckEntry]
    canaries: dict[str, int]
    attempts: list[dict[str, Any]]


def report_bytes(folder: Path) -> bytes | None:
    """The content of report.json; None where there is none, it is damaged, or it is the brief report of an aborted run."""
    try:
        return None if read_report_file(folder / "report.json").get("brief") else (folder / "report.json").read_bytes()
    except ConfigError:
        return None


def read_report_file(path: Path) -> ReportFile:
    """Raises ConfigError where it is missing or damaged."""
    return read_document(path, ReportFile)


def print_comparison(folder: Path, before: bytes | None) -> bool | None:
    """Print on stderr how report.json compares with its earlier content. True where it is the same, None where there was none.

    Reports are the same where all values are. Sentences may differ: another version of the suite may word them differently. It may also
    have further truth checks and canaries: they decide the verdict, which is compared, and are not compared themselves.
    """
    console, after = open_console(), (folder / "report.json").read_bytes()
    if before is None:
        console.print("the bundle has no full report to compare with", style="dim", soft_wrap=True)
        return None
    if before == after:
        console.print("report.json is the same as in the bundle, byte for byte", style="green", soft_wrap=True)
        return True
    earlier, now = without_sentences(json.loads(before)), without_sentences(json.loads(after))
    further = _remove_further(earlier, now)
    _as_earlier(earlier, now)
    found = list(differences(earlier, now))
    if not found:
        more = f", and there are further checks: {', '.join(further)}" if further else ""
        console.print(
            f"report.json has the same values as in the bundle; sentences are worded differently{more}", style="green", soft_wrap=True
        )
        return True
    rounding = max((relative(old, new) for _, old, new in found), default=0.0)
    slightly = f", by a relative {rounding:.0e} at most, as on another CPU" if rounding < ROUNDING else ""
    count = "1 value differs" if len(found) == 1 else f"{len(found)} values differ"
    console.print(f"report.json is not the same as in the bundle: {count}{slightly}", style="bold red", soft_wrap=True)
    lines = [f"{path}: {_short(old)} before, {_short(new)} now" for path, old, new in found[:SHOWN]]
    for line in lines + [f"and {len(found) - SHOWN} more"] * (len(found) > SHOWN) + other_versions(folder):
        console.print(f"  - {line}", soft_wrap=True)
    return False


def without_sentences(report: Any) -> Any:
    """A report.json without the sentences that the suite words: reasons and notes, and those beside figures, truth checks and gates."""
    if not isinstance(report, dict):
        return report
    return {key: _omit(value, SENTENCES[key]) if key in SENTENCES else value for key, value in report.items() if key not in WHOLE_SENTENCES}


def _remove_further(before: Any, after: Any) -> list[str]:
    """Remove from `after` the truth checks and canaries that `before` does not know; their names.

    The others are put into one order. Whether a check holds or could not be made is not compared: neither makes a run INVALID.
    """
    try:
        for report in (before, after):
            report["truth"] = [c | {"result": "holds"} if c["result"] == "not made" else c for c in report["truth"]]
        known = {check["name"] for check in before["truth"]}
        further = [check["name"] for check in after["truth"] if check["name"] not in known]
        after["truth"] = sorted((c for c in after["truth"] if c["name"] in known), key=lambda check: str(check["name"]))
        before["truth"].sort(key=lambda check: str(check["name"]))
        names = [name for name in after["canaries"] if name not in before["canaries"]]
        after["canaries"] = {name: count for name, count in after["canaries"].items() if name in before["canaries"]}
    except (KeyError, TypeError, AttributeError):  # not a report's form, which differs anyway
        return []
    return further + names


def _as_earlier(before: Any, after: Any) -> None:
    """Change what an earlier version of the suite computed in another way: it gave no interval of a rate, let intervals of shares end
    beyond 0 and 1, and gave an accuracy test figures of speed.
    """
    try:
        for name, figure in list(before["figures"].items()):
            now = after["figures"].get(name)
            if now is None and after["mode"] == "accuracy":
                del before["figures"][name]
            elif now and now["ci95"] and figure["ci95"] is None:
                now["ci95"] = None
            elif now and now["ci95"]:
                low, high = now["ci95"]
                figure["ci95"] = [
                    max(figure["ci95"][0], 0.0) if low == 0 else figure["ci95"][0],
                    min(figure["ci95"][1], 1.0) if high == 1 else figure["ci95"][1],
                ]
    except (KeyError, TypeError, ValueError, AttributeError):  # not a report's form, which differs anyway
        return


def differences(before: Any, after: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every value that differs between two JSON documents: place, before, after."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in dict.fromkeys((*before, *after)):
            yield from differences(before.get(key), after.get(key), f"{path}.{key}" if path else str(key))
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for i, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from differences(one, other, f"{path}[{i}]")
    elif before != after:
        yield path, before, after


def relative(before: Any, after: Any) -> float:
    """The relative difference of two numbers; infinite where one is no number."""
    numbers = [v for v in (before, after) if isinstance(v, (int, float)) and not isinstance(v, bool)]
    return abs(after - before) / max(abs(before), abs(after)) if len(numbers) == 2 else math.inf


def other_versions(folder: Path) -> list[str]:
    """One sentence for the suite and each package whose version differs from the run's."""
    try:
        had = read_system(folder)["packages"]
        pairs = {"the suite": (read_manifest(folder)["suite_commit"], suite_commit())}
        pairs |= {name: (had[name], here) for name, here in package_versions().items()}
    except (ConfigError, ValueError, KeyError):
        return []
    return [f"{name}: {there or 'none'} in the run, {here or 'none'} here" for name, (there, here) in pairs.items() if there != here]


def _omit(entries: Any, key: str) -> Any:
    if isinstance(entries, dict):
        return {name: _omit([entry], key)[0] for name, entry in entries.items()}
    return [{k: v for k, v in entry.items() if k != key} if isinstance(entry, dict) else entry for entry in entries]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:56] + " ..."
