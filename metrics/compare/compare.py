"""Compares runs by workload and scenario: speed-up, speed per device, quality and differences in settings.

compare.json holds: schema; for each group its measure of speed with the reason for it, and rows (label, runs, verdict with reasons,
devices, speed, speed-up over the group's baseline, efficiency, quality, differences from the baseline); geometric means over groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from configs.errors import ConfigError, unknown
from metrics.performance.speed import KINDS, Ratio, Speed, best_share, geometric_mean, pooled, slowness, speed_up, throughput
from metrics.report.figures import headline_names
from metrics.report.recompute import recompute
from metrics.report.report import Report
from metrics.report.run_facts import different_facts, facts, hardware, model_name, num_devices
from workloads.mlperf.notices import notices

SCHEMA = "triptych-compare/1"
BY = ("auto", "throughput", *KINDS)
MAY_DIFFER = ("seed", "metrics")  # settings that may differ between repeats


@dataclass(frozen=True, slots=True)
class Row:
    """A run, or several repeats of it. reasons: why it is INVALID; empty if it is VALID."""

    label: str
    reports: list[Report]
    reasons: list[str]
    speed: Speed | None = None
    ratio: Ratio | None = None  # over the baseline; None for the baseline itself

    @property
    def first(self) -> Report:
        return self.reports[0]


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that are compared with the first of them, the baseline. why: the reason for the measure of speed."""

    title: str
    why: str
    rows: list[Row]


def compare(
    folders: Sequence[Path],
    labels: Sequence[str] = (),
    baselines: Sequence[Path] = (),
    by: str = "auto",
    by_model: bool = False,
    allow_invalid: bool = False,
) -> dict[str, Any]:
    """Return the content of compare.json.

    labels: one for each run. Runs of one group with the same label are repeats and make one row; rows with the same label in several groups
    make a geometric mean. Without labels, rows at the same position make one, if all groups have the same number of rows.
    baselines: at most one for each group; the default is its first run. by: one of BY. by_model: group by model as well.
    Raises ConfigError for runs that cannot be compared, and for INVALID ones unless they are allowed.
    """
    if by not in BY:
        raise ConfigError(unknown("--by", by, BY))
    if labels and len(labels) != len(folders):
        raise ConfigError(f"got {len(labels)} --label for {len(folders)} runs. Give one for each run, in their order, or none.")
    resolved = [f.resolve() for f in folders]
    for i, folder in enumerate(resolved):
        if folder in resolved[:i]:
            raise ConfigError(f"run {str(folders[i])!r} is given twice.")
    for folder in baselines:
        if folder.resolve() not in resolved:
            raise ConfigError(f"--baseline {str(folder)!r} is not one of the runs. Give it as a run too.")
    reports = [recompute(folder) for folder in folders]
    reasons: list[list[str]] = [r.data["reasons"] for r in reports]
    if not allow_invalid and any(reasons):
        named = "; ".join(f"{str(f)!r} ({r[0]})" for f, r in zip(folders, reasons, strict=True) if r)
        raise ConfigError(f"INVALID runs cannot be compared: {named}. Use --allow-invalid to compare them anyway; they are marked.")
    named_rows: dict[str, dict[str, Row]] = {}
    for report, reason, name in zip(reports, reasons, labels or _folder_names(resolved), strict=True):
        rows = named_rows.setdefault(_title(report, by_model), {})
        row = rows.setdefault(name, Row(name, [], []))
        row.reports.append(report)
        row.reasons.extend(reason)
    first_label = next(iter(next(iter(named_rows.values()), {})), "")
    groups = [_group(title, list(rows.values()), first_label if labels else "", baselines, by) for title, rows in named_rows.items()]
    if not any(len(group.rows) > 1 for group in groups):
        listed = "; ".join(f"{g.title}: {', '.join(r.label for r in g.rows)}" for g in groups)
        raise ConfigError(f"nothing to compare: two runs of one workload and scenario are required, got {listed or 'none'}.")
    return {
        "schema": SCHEMA,
        "notice": notices(report.run.config for report in reports),
        "groups": [_plain_group(group) for group in groups],
        "geometric_means": _geometric_means(groups, bool(labels)),
    }


def _folder_names(folders: Sequence[Path]) -> list[str]:
    """The shortest unique end of each folder's path."""

    def ends(folder: Path) -> list[str]:
        return ["/".join(folder.parts[-length:]) for length in range(1, 1 + len(folder.parts))]

    others = [{end for other in folders if other is not folder for end in ends(other)} for folder in folders]
    return [next((end for end in ends(folder) if end not in taken), str(folder)) for folder, taken in zip(folders, others, strict=True)]


def _title(report: Report, by_model: bool) -> str:
    config = report.run.config
    return f"{config.workload}{f' {model_name(report.run)}' if by_model else ''}, {config.scenario.replace('_', ' ')}"


def _group(title: str, rows: list[Row], first_label: str, baselines: Sequence[Path], by: str) -> Group:
    """Put the group's baseline first, and compute every row's speed and speed-up."""
    for row in rows:
        _check_repeats(row)
    chosen = {b.resolve() for b in baselines}
    at = [i for i, row in enumerate(rows) if any(r.run.folder.resolve() in chosen for r in row.reports)]
    if len(at) > 1:
        raise ConfigError(f"{title} has {len(at)} baselines: {', '.join(rows[i].label for i in at)}. Give only one.")
    start = at[0] if at else next((i for i, row in enumerate(rows) if row.label == first_label), 0)
    rows = [rows[start], *rows[:start], *rows[start + 1 :]]
    kind, why = _kind(title, rows, by)
    rows = [replace(row, speed=speed) for row, speed in zip(rows, _speeds(rows, kind), strict=True)]
    if not any(row.speed for row in rows):
        raise ConfigError(f"no run of {title} has a {kind}: accuracy tests are not timed, and some pipelines do not stream tokens.")
    base = rows[0].speed
    ratios = [speed_up(base, row.speed) if base and row.speed else None for row in rows[1:]]
    return Group(title, why, [rows[0], *(replace(row, ratio=ratio) for row, ratio in zip(rows[1:], ratios, strict=True))])


def _check_repeats(row: Row) -> None:
    one, *others = row.reports
    for other in others:
        for name, (before, after) in different_facts(facts(one), facts(other)).items():
            if name not in MAY_DIFFER:
                raise ConfigError(
                    f"label {row.label!r} is given to {one.data['run']!r} and {other.data['run']!r}, which are not repeats: {name} is "
                    f"{before!r} and {after!r}. Use different labels{', or --by-model' if name == 'pipeline.model' else ''}."
                )
    for place, report in enumerate(row.reports):  # copies would make intervals narrower that rest on no more measurements
        twin = next((other for other in row.reports[:place] if other.run.records == report.run.records), None)
        if twin is not None:
            raise ConfigError(
                f"label {row.label!r} is given to {twin.data['run']!r} and {report.data['run']!r}, which have the same records: one is a "
                "copy of the other, and no repeat. Give one of them."
            )


def _kind(title: str, rows: Sequence[Row], by: str) -> tuple[str, str]:
    """The measure of speed in a group, and the reason for it."""
    configs = [r.run.config for row in rows for r in row.reports]
    if by != "auto":
        if by != "throughput" and configs[0].scenario == "offline":
            raise ConfigError(f"--by {by} is meaningless for {title}: all queries are issued at the start. Use --by throughput.")
        return by, "as requested"
    if configs[0].scenario in ("single_stream", "multi_stream"):
        return "latency", "queries follow each other"
    if configs[0].is_server:
        rates = {c.load.target_qps for c in configs}
        if len(rates) == 1 and "auto" not in rates:
            return "latency", f"all runs were offered {float(rates.pop()):g} queries/s"
        return "throughput", "runs were offered different rates; compared is what they completed within the limits"
    return "throughput", "all queries are there from the start"


def _speeds(rows: Sequence[Row], kind: str) -> list[Speed | None]:
    runs = [r.run for row in rows for r in row.reports if r.run.of_mode("performance")]
    share = best_share(runs, kind) if kind in KINDS else 0.0
    pooled_speeds: list[Speed | None] = []
    for row in rows:
        timed = [r.run for r in row.reports if r.run.of_mode("performance")]
        speeds = [throughput(run) if kind == "throughput" else slowness(run, kind, share) for run in timed]
        known = [speed for speed in speeds if speed]
        pooled_speeds.append(pooled(known) if known and len(known) == len(row.reports) else None)
    return pooled_speeds


def _geometric_means(groups: Sequence[Group], by_label: bool) -> list[dict[str, Any]]:
    """The geometric means over groups, of rows that belong together; none where only one group has such rows."""
    compared = [group.rows[1:] for group in groups if len(group.rows) > 1]
    if by_label:
        names = dict.fromkeys(row.label for rows in compared for row in rows)
        matching = {name: [row for rows in compared for row in rows if row.label == name] for name in names}
    elif len({len(rows) for rows in compared}) == 1 and len(compared) == len(groups):
        matching = {", ".join(row.label for row in rows): list(rows) for rows in zip(*compared, strict=True)}
    else:
        matching = {}
    means = []
    for label, rows in matching.items():
        ratios = [row.ratio for row in rows if row.ratio]
        if len(rows) > 1 and len(ratios) == len(rows):
            mean = geometric_mean(ratios)
            baselines = [group.rows[0] for group in groups if any(row is other for row in rows for other in group.rows)]
            verdict = "INVALID" if any(row.reasons for row in (*rows, *baselines)) else "VALID"
            means.append({"label": label, "speed_up": mean.value, "ci95": mean.ci95, "groups": len(rows), "verdict": verdict})
    return means


def _plain_group(group: Group) -> dict[str, Any]:
    speed = next(row.speed for row in group.rows if row.speed)
    names = headline_names(row.first.run for row in group.rows)
    quality = next((name for name in names if any(_figure(row.first, name) for row in group.rows)), None)
    return {
        "title": group.title,
        "speed": {"name": speed.name, "unit": speed.unit, "better": "higher" if speed.higher_is_better else "lower", "why": group.why},
        "quality": quality,
        "rows": [_plain_row(row, group.rows[0], quality) for row in group.rows],
    }


def _plain_row(row: Row, baseline: Row, quality: str | None) -> dict[str, Any]:
    report, speed = row.first, row.speed
    devices, base_devices = num_devices(report.run), num_devices(baseline.first.run)
    efficiency = None
    if row.ratio and speed and speed.higher_is_better and devices and base_devices:
        share, ci95 = base_devices / devices, row.ratio.ci95
        efficiency = {"value": row.ratio.value * share, "ci95": [end * share for end in ci95] if ci95 else None}
    return {
        "label": row.label,
        "runs": [{"run": r.data["run"], "folder": str(r.run.folder)} for r in row.reports],
        "baseline": row is baseline,
        "verdict": "INVALID" if row.reasons else "VALID",
        "reasons": row.reasons,
        "rules": report.data["rules"],
        "num_devices": devices or None,
        "hardware": hardware(report.run),
        "speed": {"value": speed.value, "ci95": speed.ci95, "n": speed.n, "interval": speed.how} if speed else None,
        "speed_up": {"value": row.ratio.value, "ci95": row.ratio.ci95} if row.ratio else None,
        "efficiency": efficiency,
        "quality": _quality(row, baseline, quality) if quality else None,
        "differs": {} if row is baseline else different_facts(facts(baseline.first), facts(report)),
    }


def _quality(row: Row, baseline: Row, name: str) -> dict[str, Any] | None:
    """The first run's figure, the range if repeats differ, and `lower` or `higher` if its interval does not overlap the baseline's."""
    figures = [_figure(report, name) for report in row.reports]
    if not figures[0]:
        return None
    one, base = figures[0], _figure(baseline.first, name)
    values = [f["value"] for f in figures if f]
    versus = ""
    if row is not baseline and base and base["ci95"] and one["ci95"]:
        versus = "lower" if one["ci95"][1] < base["ci95"][0] else "higher" if one["ci95"][0] > base["ci95"][1] else ""
    return {
        "value": one["value"],
        "ci95": one["ci95"],
        "n": one["n"],
        "range": [min(values), max(values)] if len(set(values)) > 1 else None,
        "versus_baseline": versus,
    }


def _figure(report: Report, name: str) -> dict[str, Any] | None:
    figure: dict[str, Any] = report.data["figures"].get(name) or {}
    return figure if figure.get("value") is not None else None
