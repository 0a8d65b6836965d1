"""An audit: a candidate run against a reference run of the same prompts and seeds, answer by answer.

PASS: no metric of quality is worse by its margin; FAIL: one is; INCONCLUSIVE: the prompts are too few to say, and how many more would
do. Speed is told beside, and how close the answers are to the reference's, which is no verdict: other is not worse.
Statistics: metrics/paired.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from configs.errors import ConfigError, unknown
from metrics.base import Run
from metrics.closeness import closeness
from metrics.paired import ALPHA, Comparison, clustered_ratio, compare_means, compare_shares, further_samples, joint_clusters, verdicts
from metrics.report import Report, own_metrics
from metrics.run_facts import differing, facts
from metrics.sample_size import Effect, parse_effect
from metrics.speed import speed_up, throughput
from metrics.worked_out import scored_by, scores_by_sample, worked_out
from pipelines.media import Form, video_form
from workloads.records import Record
from workloads.under_rules import notices

SCHEMA = "triptych-audit/1"
WORST = 12  # regressions that are shown


def audit(reference: Path, candidate: Path, margin: str = "1%", names: Sequence[str] = (), allow_invalid: bool = False) -> dict[str, Any]:
    """What audit.json holds. margin: loss of quality that is tolerated: `1%` of the reference's mean, or an amount such as `0.01`.

    names: metrics that are judged; all that score single answers and have a better direction, where none is named: those of the workload
    and of either run, by which both are scored.
    Raises ConfigError for runs that cannot be compared, naming the difference.
    """
    tolerated = parse_effect(margin, "--margin")
    one, two = (_load(folder, allow_invalid) for folder in (reference, candidate))
    _check_alike(one, two)
    metrics = list(dict.fromkeys((*one.run.workload.default_metrics, *own_metrics(one.run), *own_metrics(two.run))))
    one, two = scored_by(one, metrics), scored_by(two, metrics)  # a metric that one run left out is no metric that it passes
    judged, left_out = _comparisons(one, two, tolerated, names)
    found = verdicts(judged)
    close = closeness(one.run, two.run)
    each = []
    for v in found.each:
        more = further_samples(v.comparison, ALPHA / len(judged)) if v.verdict == "INCONCLUSIVE" else 0
        numbers = {"relative": v.comparison.difference / abs(v.comparison.reference) if v.comparison.reference else None}
        adjusted = {"p_not_worse_holm": v.p_not_worse, "p_worse_holm": v.p_worse}
        each.append({**asdict(v.comparison), **numbers, **adjusted, "verdict": v.verdict, "further_samples": more})
    return {
        "schema": SCHEMA,
        "verdict": found.overall,
        "margin": tolerated.text,
        "workload": one.run.config.workload,
        "rules": one.run.config.rules,
        "notice": notices((one.run.config, two.run.config)),
        "reference": _described(one, reference),
        "candidate": _described(two, candidate),
        "differs": differing(facts(one), facts(two)),
        "num_pairs": len(one.run.judged),
        "speed": _speed(one.run, two.run),
        "metrics": each,
        "left_out": left_out,
        "closeness": close,
        "worst": _worst(one, two, judged, {p["sample_index"]: p for p in close["pairs"]}),
    }


def _load(folder: Path, allow_invalid: bool) -> Report:
    report = worked_out(folder)
    reasons = report.data["reasons"]
    if reasons and not allow_invalid:
        raise ConfigError(f"run {str(folder)!r} is INVALID, and no audit rests on it: {reasons[0]}; --allow-invalid audits it, and says so")
    return report


def _check_alike(one: Report, two: Report) -> None:
    """Raises ConfigError where answers make no pairs, naming the first difference."""
    a, b = one.run, two.run
    for what, left, right in (("workload", a.config.workload, b.config.workload), ("seed", a.config.seed, b.config.seed)):
        if left != right:
            raise ConfigError(
                f"the runs differ in their {what} ({left} and {right}), so their answers make no pairs; run both with the same"
            )
    if len(a.samples) != len(b.samples):
        raise ConfigError(f"the reference has {len(a.samples)} prompts and the candidate {len(b.samples)}; run both on the same data set")
    for sample, twin in zip(a.samples, b.samples, strict=True):
        if (sample.prompt, sample.images) != (twin.prompt, twin.images):
            raise ConfigError(
                f"the runs were asked different prompts: number {sample.index} is {sample.prompt[:60]!r} and {twin.prompt[:60]!r}; "
                "run both on the same data set"
            )
    answered = [{r.sample_index for r in run.judged} for run in (a, b)]
    if missing := sorted(answered[0] ^ answered[1]):
        raise ConfigError(
            f"{len(missing)} prompts were answered in one run alone, the first is number {missing[0]}; run both with --mode accuracy, "
            "which asks every prompt once"
        )
    _check_same_form(a, b)


def _check_same_form(a: Run, b: Run) -> None:
    """Of the saved videos, whatever the options say. One that cannot be read is the canary `unreadable`'s."""
    other = {r.sample_index: r for r in b.judged}
    for record in a.judged:
        twin = other[record.sample_index]
        if record.media is None or twin.media is None:
            continue
        try:
            forms = [video_form(run.folder / str(r.media)) for run, r in ((a, record), (b, twin))]
        except ValueError:
            continue
        for name, left, right in zip(Form._fields, *forms, strict=True):
            if left != right:
                told = f"of prompt {record.sample_index} it is {left:g} and {right:g}"
                raise ConfigError(f"the runs' videos differ in {name}: {told}; run both with the same")


def _comparisons(one: Report, two: Report, tolerated: Effect, names: Sequence[str]) -> tuple[list[Comparison], dict[str, str]]:
    """Of every metric that can be judged; why the others cannot, by name."""
    before, after = scores_by_sample(one), scores_by_sample(two)
    known = list(dict.fromkeys((*before, *after)))
    for name in names:
        if name not in known:
            raise ConfigError(unknown("metric", name, known))
    found, left_out = [], {}
    for name in names or known:
        better = next(r.data["figures"][name]["better"] for r in (one, two) if name in r.data["figures"])
        if better == "neither":
            left_out[name] = "neither way is better"
            continue
        columns = before.get(name, {}), after.get(name, {})
        both = sorted(columns[0].keys() & columns[1].keys())
        if odd := columns[0].keys() ^ columns[1].keys():
            raise ConfigError(
                f"{name} scores {len(columns[0])} answers of the reference and {len(columns[1])} of the candidate, the first that only one "
                f"has is number {min(odd)}; no audit can pass over that: --metric NAME judges by others alone"
            )
        a, b = ([scores[i] for i in both] for scores in columns)
        margin = tolerated.margin(math.fsum(a) / len(a))
        if len(both) < 2:
            left_out[name] = "there is but one score"
        elif not all(map(math.isfinite, (*a, *b))):
            raise ConfigError(f"{name} has scores that are no finite numbers; --metric NAME judges by others alone")
        elif margin <= 0:
            left_out[name] = f"{tolerated.text} of a mean of 0 is nothing; give an amount, such as --margin 0.01"
        elif all(v in (0.0, 1.0) for v in (*a, *b)) and margin < 1:
            found.append(compare_shares(name, a, b, margin))
        else:
            found.append(compare_means(name, a, b, margin, better))
    if names and left_out:
        raise ConfigError("not every --metric can be judged: " + "; ".join(f"{name}: {why}" for name, why in left_out.items()))
    if not found:
        raise ConfigError("no metric of these runs can be audited: " + "; ".join(f"{name}: {why}" for name, why in left_out.items()))
    return found, left_out


def _speed(a: Run, b: Run) -> dict[str, Any]:
    """Above 1 the candidate is faster. paired: seconds in service of the same prompts, a batch's shared by its answers."""
    found: dict[str, Any] = {"paired": None, "throughput": None}
    rows = [_first_done(run) for run in (a, b)]
    both = sorted(rows[0].keys() & rows[1].keys())
    if both:
        seconds = [[max(_seconds(row[i]), 1e-9) for i in both] for row in rows]
        labels = [[(row[i].rank, row[i].started_s) if row[i].batch_size > 1 else i for i in both] for row in rows]
        ratio = clustered_ratio(seconds[0], seconds[1], joint_clusters(*labels))
        found["paired"] = {"value": ratio.value, "ci95": ratio.ci95, "n": len(both)}
    speeds = [throughput(run) for run in (a, b)]
    if speeds[0] and speeds[1]:
        change = speed_up(speeds[0], speeds[1])
        found["throughput"] = {"value": change.value, "ci95": change.ci95}
    return found


def _first_done(run: Run) -> dict[int, Record]:
    found: dict[int, Record] = {}
    for record in run.timed:
        if record.status == "done":
            found.setdefault(record.sample_index, record)
    return found


def _seconds(record: Record) -> float:
    began = record.issued_s if record.started_s is None else record.started_s
    return (record.completed_s - began) / record.batch_size


def _worst(one: Report, two: Report, judged: Sequence[Comparison], close: Mapping[int, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The prompts that lost most, each metric's loss in units of its largest; those that lost nothing are left out. close: by prompt."""
    before, after = scores_by_sample(one), scores_by_sample(two)
    loss: dict[int, float] = {}
    for c in judged:
        sign = 1.0 if c.better == "higher" else -1.0
        losses = {i: sign * (before[c.name][i] - after[c.name][i]) for i in before[c.name]}
        largest = max(map(abs, losses.values()), default=0.0)
        for i, lost in losses.items():
            loss[i] = loss.get(i, 0.0) + (lost / largest if largest else 0.0)
    answers = [{s["sample_index"]: s for s in report.data["samples"]} for report in (one, two)]
    found = []
    for i in sorted((i for i in loss if loss[i] > 0), key=lambda i: -loss[i])[:WORST]:
        shown = [{k: rows[i][k] for k in ("media", "text", "status", "scores")} for rows in answers]
        fell = {
            c.name: [before[c.name][i], after[c.name][i]]
            for c in judged
            if i in before[c.name]
            and (before[c.name][i] > after[c.name][i]) == (c.better == "higher")
            and before[c.name][i] != after[c.name][i]
        }
        pair = {"prompt": answers[0][i]["prompt"], "fell": fell, "closeness": close.get(i), "reference": shown[0], "candidate": shown[1]}
        found.append({"sample_index": i, **pair})
    return found


def _described(report: Report, folder: Path) -> dict[str, Any]:
    figures: Mapping[str, Any] = report.data["effective"]
    return {"run": report.data["run"], "folder": str(folder), "verdict": report.data["verdict"], "effective": dict(figures)}
