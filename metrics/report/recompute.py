"""A run's report, worked out again from its records and media, for commands that compare runs: no hash covers report.json."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.errors import ConfigError
from metrics.report.figures import compute_figures, plain_figure
from metrics.report.report import Report, make_report
from metrics.report.report_diff import ROUNDING, differences, relative
from workloads.run_folder.manifest import modifications


def worked_out(folder: Path) -> Report:
    """What `suite.py report` would say of the folder; nothing is written.

    Raises ConfigError where it is no run folder, and where its report.json says otherwise than its records and media.
    """
    if folder.is_file():
        raise ConfigError(f"{str(folder)!r} is a file; suite.py report {folder} unpacks a bundle into a run folder, which can be compared")
    if not folder.is_dir():
        raise ConfigError(f"run folder {str(folder)!r} does not exist")
    report = make_report(folder)
    if not modifications(folder):  # else the run is INVALID, and its files are named
        _check_file(folder / "report.json", report.data)
    return report


def scored_by(report: Report, names: Sequence[str]) -> Report:
    """With figures and scores by these metrics too, as far as the run was not reported by them. They say nothing to its verdict."""
    further, scores = compute_figures(report.run, [name for name in names if name not in report.run.metric_names])
    figures = {name: plain_figure(figure) for name, figure in further.items()}
    samples = [{**s, "scores": {**s["scores"], **scores.get(s["query_id"], {})}} for s in report.data["samples"]]
    return Report(report.run, {**report.data, "figures": {**figures, **report.data["figures"]}, "samples": samples})


def scores_by_sample(report: Report) -> dict[str, dict[int, float]]:
    """By metric and sample index."""
    found: dict[str, dict[int, float]] = {}
    for sample in report.data["samples"]:
        for name, value in sample["scores"].items():
            found.setdefault(name, {})[int(sample["sample_index"])] = float(value)
    return found


def _check_file(path: Path, data: Mapping[str, Any]) -> None:
    """Raises ConfigError where report.json has other values than `data`. The brief report of an aborted run is not compared."""
    try:
        file = json.loads(path.read_text(encoding="utf-8"))
        if file.get("brief"):
            return
        before = _values(file)
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is damaged: {error!r}; run: suite.py report {path.parent}") from None
    for place, old, new in differences(before, _values(data)):
        if not relative(old, new) < ROUNDING:
            raise ConfigError(
                f"{path} is not of the run's records and media: {place} is {_shown(old)} there, and {_shown(new)} worked out again; "
                f"run: suite.py report {path.parent}"
            )


def _values(data: Mapping[str, Any]) -> dict[str, Any]:
    """What is compared of a report. Its sentences are not: another version of the suite may word them otherwise."""
    return {
        "verdict": data["verdict"],
        "figures": {name: figure["value"] for name, figure in data["figures"].items()},
        "gates": [{key: gate[key] for key in ("figure", "value", "target", "holds")} for gate in data["gates"]],
        "samples": {str(s["sample_index"]): {"text": s["text"], "media": s["media"], "scores": s["scores"]} for s in data["samples"]},
    }


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) and math.isfinite(value) else json.dumps(value, ensure_ascii=False)[:80]
