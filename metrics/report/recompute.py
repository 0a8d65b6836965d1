"""A run's report, recomputed from its records and media for commands that compare runs, because no hash covers report.json."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.errors import ConfigError
from metrics.report.figures import compute_figures, plain_figure
from metrics.report.report import Report, make_report
from metrics.report.report_diff import ROUNDING, differences, read_report_file, relative
from metrics.validity.verdict import changed


def recompute(folder: Path) -> Report:
    """The report that `suite.py report` would write; nothing is written.

    Raises ConfigError where it is no run folder, and where its report.json has other values than its records and media give.
    """
    if folder.is_file():
        raise ConfigError(f"{str(folder)!r} is a file, not a run folder; unpack a bundle with: suite.py report {folder}")
    if not folder.is_dir():
        raise ConfigError(f"run folder {str(folder)!r} does not exist")
    report = make_report(folder)
    if not changed(report.run):  # else the run is INVALID, and its reasons name it
        _check_file(folder / "report.json", report.data)
    return report


def add_metrics(report: Report, names: Sequence[str]) -> Report:
    """The report with figures and scores by these metrics too, where the run does not have them. The verdict stays the same.

    Raises ConfigError where one of them cannot be computed.
    """
    further, scores, worst, errors = compute_figures(report.run, [name for name in names if name not in report.run.metric_names])
    if errors:
        name, why = next(iter(errors.items()))
        raise ConfigError(f"metric {name!r} cannot be computed for {str(report.run.folder)!r}: {why}; correct the metric, or leave it out")
    figures = {name: plain_figure(figure) for name, figure in further.items()}
    samples = [{**s, "scores": {**s["scores"], **scores.get(s["query_id"], {})}} for s in report.data["samples"]]
    return Report(
        report.run, {**report.data, "figures": {**figures, **report.data["figures"]}, "samples": samples}, {**report.worst, **worst}
    )


def scores_by_sample(report: Report) -> dict[str, dict[int, float]]:
    """Scores by figure and sample index."""
    scores: dict[str, dict[int, float]] = {}
    for sample in report.data["samples"]:
        for name, value in sample["scores"].items():
            scores.setdefault(name, {})[int(sample["sample_index"])] = float(value)
    return scores


def _check_file(path: Path, data: Mapping[str, Any]) -> None:
    """Raises ConfigError where report.json has other values than `data`. The brief report of an aborted run is not compared."""
    if not path.exists():
        return
    try:
        file = read_report_file(path)
    except ConfigError as error:
        raise ConfigError(f"{error}; run: suite.py report {path.parent}") from None
    if file.get("brief"):
        return
    before = _values(file)
    if data["mode"] == "accuracy":  # earlier versions gave it figures of speed
        before["figures"] = {name: value for name, value in before["figures"].items() if name in data["figures"]}
    for place, old, new in differences(before, _values(data)):
        if not relative(old, new) < ROUNDING:
            raise ConfigError(
                f"{path} does not match the run's records and media: {place} is {_shown(old)} there and {_shown(new)} recomputed; "
                f"run: suite.py report {path.parent}"
            )


def _values(data: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a report that are compared. Sentences are not: another version of the suite may word them differently."""
    return {
        "verdict": data["verdict"],
        "figures": {name: figure["value"] for name, figure in data["figures"].items()},
        "gates": [{key: gate[key] for key in ("figure", "value", "target", "holds")} for gate in data["gates"]],
        "samples": {str(s["sample_index"]): {"text": s["text"], "media": s["media"], "scores": s["scores"]} for s in data["samples"]},
    }


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) and math.isfinite(value) else json.dumps(value, ensure_ascii=False)[:80]
