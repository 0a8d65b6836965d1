"""The pairs of an audit: whether the answers of two runs make any, and which of them lost most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from configs.errors import ConfigError
from metrics.base import Run
from metrics.report.recompute import scores_by_sample
from metrics.report.report import Report
from metrics.statistics.paired import Comparison, Verdict
from workloads.run_folder.media import Form, video_form

WORST = 12  # that are shown
BY_VERDICT = ("FAIL", "INCONCLUSIVE", "PASS")


def check_alike(one: Report, two: Report) -> None:
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


def worst(one: Report, two: Report, judged: Sequence[Verdict], close: Mapping[int, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The prompts that lost most; those that lost nothing are left out. close: by prompt.

    Losses count in margins. What they lost by metrics that FAIL decides, then by those that are INCONCLUSIVE, then by those that PASS,
    whose differences may be nothing but noise.
    """
    before, after = scores_by_sample(one), scores_by_sample(two)
    lost: dict[int, dict[str, float]] = {}
    for comparison, verdict, _, _ in judged:
        name, sign = comparison.name, 1.0 if comparison.better == "higher" else -1.0
        for i in before[name]:
            by = lost.setdefault(i, dict.fromkeys(BY_VERDICT, 0.0))
            by[verdict] += sign * (before[name][i] - after[name][i]) / comparison.margin
    loss = {i: tuple(by.values()) for i, by in lost.items()}
    answers = [{s["sample_index"]: s for s in report.data["samples"]} for report in (one, two)]
    found = []
    for i in sorted((i for i in loss if loss[i] > (0.0, 0.0, 0.0)), key=lambda i: loss[i], reverse=True)[:WORST]:
        shown = [{k: rows[i][k] for k in ("media", "text", "status", "scores")} for rows in answers]
        fell = {
            v.comparison.name: [before[v.comparison.name][i], after[v.comparison.name][i]]
            for v in sorted(judged, key=lambda v: BY_VERDICT.index(v.verdict))
            if i in before[v.comparison.name] and _fell(v.comparison, before, after, i)
        }
        pair = {"prompt": answers[0][i]["prompt"], "fell": fell, "closeness": close.get(i), "reference": shown[0], "candidate": shown[1]}
        found.append({"sample_index": i, **pair})
    return found


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


def _fell(c: Comparison, before: Mapping[str, Mapping[int, float]], after: Mapping[str, Mapping[int, float]], i: int) -> bool:
    one, two = before[c.name][i], after[c.name][i]
    return two < one if c.better == "higher" else two > one
