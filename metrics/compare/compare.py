"""compare.json: runs beside each other, by workload and scenario: speed-up, speed per device, quality, and what they differ in.

schema, speed of each group and why it is that one, rows (label, runs, verdict with reasons, devices, speed, speed-up over the group's
baseline, efficiency, quality, what differs from the baseline), geometric means over groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from configs.errors import ConfigError, unknown
from metrics.performance.speed import KINDS, Ratio, Speed, best_share, geometric_mean, pooled, slowness, speed_up, throughput
from metrics.report.figures import headline_names
from metrics.report.recompute import worked_out
from metrics.report.report import Report
from metrics.report.run_facts import differing, facts, hardware, model_name, num_devices
from workloads.mlperf.notices import notices

SCHEMA = "triptych-compare/1"
BY = ("auto", "throughput", *KINDS)
MAY_DIFFER = ("seed", "metrics")  # between repeats


@dataclass(frozen=True, slots=True)
class Row:
    """A run, or several that repeat each other. reasons: why INVALID, were it so."""

    label: str
    reports: list[Report]
    reasons: list[str]
    speed: Speed | None = None
    ratio: Ratio | None = None  # over the baseline, which has none

    @property
    def first(self) -> Report:
        return self.reports[0]


@dataclass(frozen=True, slots=True)
class Group:
    """Rows to be compared with the first of them."""

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
    """What compare.json holds.

    labels: one a run; runs of one group with the same label are repeats and make one row, and rows with the same label in several
    groups make a geometric mean. Without labels that is made of the rows with the same place, where groups are equally long.
    baselines: at most one a group, which else is compared with its first run. by: one of BY. by_model: groups by model as well.
    Raises ConfigError for runs that cannot be compared, and for INVALID ones unless they are allowed.
    """
    if by not in BY:
        raise ConfigError(unknown("--by", by, BY))
    if labels and len(labels) != len(folders):
        raise ConfigError(f"{len(labels)} --label for {len(folders)} runs; give one for each, in their order, or none")
    resolved = [f.resolve() for f in folders]
    for i, folder in enumerate(resolved):
        if folder in resolved[:i]:
            raise ConfigError(f"run {str(folders[i])!r} is given twice")
    for folder in baselines:
        if folder.resolve() not in resolved:
            raise ConfigError(f"--baseline {str(folder)!r} is none of the runs; give it among them as well")
    reports = [worked_out(folder) for folder in folders]
    reasons: list[list[str]] = [r.data["reasons"] for r in reports]
    if not allow_invalid and any(reasons):
        named = "; ".join(f"{str(f)!r} ({r[0]})" for f, r in zip(folders, reasons, strict=True) if r)
        raise ConfigError(f"INVALID runs are not compared: {named}; --allow-invalid compares them all the same, and marks them")
    named_rows: dict[str, dict[str, Row]] = {}
    for report, reason, name in zip(reports, reasons, labels or _folder_names(resolved), strict=True):
        rows = named_rows.setdefault(_title(report, by_model), {})
        row = rows.setdefault(name, Row(name, [], []))
        row.reports.append(report)
        row.reasons.extend(reason)
    first_label = next(iter(next(iter(named_rows.values()), {})), "")
    groups = [_group(title, list(rows.values()), first_label if labels else "", baselines, by) for title, rows in named_rows.items()]
    if not any(len(group.rows) > 1 for group in groups):
        held = "; ".join(f"{g.title}: {', '.join(r.label for r in g.rows)}" for g in groups)
        raise ConfigError(f"nothing to compare: two rows of one workload and scenario are needed, and these are {held or 'none'}")
    return {
        "schema": SCHEMA,
        "notice": notices(report.run.config for report in reports),
        "groups": [_plain_group(group) for group in groups],
        "geometric_means": _geometric_means(groups, bool(labels)),
    }


def _folder_names(folders: Sequence[Path]) -> list[str]:
    """Of each, the shortest end of its path that no other has."""

    def ends(folder: Path) -> list[str]:
        return ["/".join(folder.parts[-length:]) for length in range(1, 1 + len(folder.parts))]

    others = [{end for other in folders if other is not folder for end in ends(other)} for folder in folders]
    return [next((end for end in ends(folder) if end not in taken), str(folder)) for folder, taken in zip(folders, others, strict=True)]


def _title(report: Report, by_model: bool) -> str:
    config = report.run.config
    return f"{config.workload}{f' {model_name(report.run)}' if by_model else ''}, {config.scenario.replace('_', ' ')}"


def _group(title: str, rows: list[Row], first_label: str, baselines: Sequence[Path], by: str) -> Group:
    """The group with its baseline first, and every row's speed."""
    for row in rows:
        _check_repeats(row)
    chosen = {b.resolve() for b in baselines}
    at = [i for i, row in enumerate(rows) if any(r.run.folder.resolve() in chosen for r in row.reports)]
    if len(at) > 1:
        raise ConfigError(f"{title} has {len(at)} baselines: {', '.join(rows[i].label for i in at)}; give one")
    start = at[0] if at else next((i for i, row in enumerate(rows) if row.label == first_label), 0)
    rows = [rows[start], *rows[:start], *rows[start + 1 :]]
    kind, why = _kind(title, rows, by)
    rows = [replace(row, speed=speed) for row, speed in zip(rows, _speeds(rows, kind), strict=True)]
    if not any(row.speed for row in rows):
        raise ConfigError(f"no run of {title} has a {kind}: accuracy tests are not timed, and some pipelines give no tokens one by one")
    base = rows[0].speed
    ratios = [speed_up(base, row.speed) if base and row.speed else None for row in rows[1:]]
    return Group(title, why, [rows[0], *(replace(row, ratio=ratio) for row, ratio in zip(rows[1:], ratios, strict=True))])


def _check_repeats(row: Row) -> None:
    one, *others = row.reports
    for other in others:
        for name, (before, after) in differing(facts(one), facts(other)).items():
            if name not in MAY_DIFFER:
                raise ConfigError(
                    f"label {row.label!r} is given to {one.data['run']!r} and {other.data['run']!r}, which are no repeats: {name} is "
                    f"{before!r} and {after!r}; give them labels of their own" + (", or --by-model" if name == "pipeline.model" else "")
                )


def _kind(title: str, rows: Sequence[Row], by: str) -> tuple[str, str]:
    """What speed is in a group, and why."""
    configs = [r.run.config for row in rows for r in row.reports]
    if by != "auto":
        if by != "throughput" and configs[0].scenario == "offline":
            raise ConfigError(f"--by {by} says nothing of {title}: all its queries are there from the start; use --by throughput")
        return by, "as asked for"
    if configs[0].scenario in ("single_stream", "multi_stream"):
        return "latency", "queries follow each other"
    if configs[0].is_server:
        rates = {c.load.target_qps for c in configs}
        if len(rates) == 1 and "auto" not in rates:
            return "latency", f"all runs were offered {float(rates.pop()):g} queries/s"
        return "throughput", "runs were offered different rates: what they carried within the limits"
    return "throughput", "all queries are there from the start"


def _speeds(rows: Sequence[Row], kind: str) -> list[Speed | None]:
    runs = [r.run for row in rows for r in row.reports if r.run.of_mode("performance")]
    share = best_share(runs, kind) if kind in KINDS else 0.0
    found: list[Speed | None] = []
    for row in rows:
        timed = [r.run for r in row.reports if r.run.of_mode("performance")]
        speeds = [throughput(run) if kind == "throughput" else slowness(run, kind, share) for run in timed]
        known = [speed for speed in speeds if speed]
        found.append(pooled(known) if known and len(known) == len(row.reports) else None)
    return found


def _geometric_means(groups: Sequence[Group], by_label: bool) -> list[dict[str, Any]]:
    """Over groups, of rows that belong together; none where only one group has such rows."""
    compared = [group.rows[1:] for group in groups if len(group.rows) > 1]
    if by_label:
        names = dict.fromkeys(row.label for rows in compared for row in rows)
        together = {name: [row for rows in compared for row in rows if row.label == name] for name in names}
    elif len({len(rows) for rows in compared}) == 1 and len(compared) == len(groups):
        together = {", ".join(row.label for row in rows): list(rows) for rows in zip(*compared, strict=True)}
    else:
        together = {}
    found = []
    for label, rows in together.items():
        ratios = [row.ratio for row in rows if row.ratio]
        if len(rows) > 1 and len(ratios) == len(rows):
            mean = geometric_mean(ratios)
            baselines = [group.rows[0] for group in groups if any(row is other for row in rows for other in group.rows)]
            verdict = "INVALID" if any(row.reasons for row in (*rows, *baselines)) else "VALID"
            found.append({"label": label, "speed_up": mean.value, "ci95": mean.ci95, "groups": len(rows), "verdict": verdict})
    return found


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
        "differs": {} if row is baseline else differing(facts(baseline.first), facts(report)),
    }


def _quality(row: Row, baseline: Row, name: str) -> dict[str, Any] | None:
    """The figure of the first run, the range of all where repeats differ, and `lower` or `higher` where the intervals lie apart."""
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
