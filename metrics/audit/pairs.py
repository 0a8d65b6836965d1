"""The pairs of an audit: checks that the answers of two runs can be paired, and selects the prompts that lost most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from configs.errors import ConfigError
from metrics.base import Run
from metrics.report.recompute import scores_by_sample
from metrics.report.report import Report
from metrics.statistics.paired import Comparison, Verdict
from workloads.run_folder.media import Form, video_form

NUM_WORST = 12  # prompts that are shown
BY_VERDICT = ("FAIL", "INCONCLUSIVE", "PASS")


def check_pairs(one: Report, two: Report) -> None:
    """Raise ConfigError if the answers cannot be paired, naming the first difference."""
    a, b = one.run, two.run
    for name, left, right in (("workload", a.config.workload, b.config.workload), ("seed", a.config.seed, b.config.seed)):
        if left != right:
            raise ConfigError(
                f"the runs differ in their {name} ({left} and {right}), so their answers cannot be paired. Run both with the same {name}."
            )
    if len(a.samples) != len(b.samples):
        raise ConfigError(f"the reference has {len(a.samples)} prompts and the candidate {len(b.samples)}. Run both on the same data set.")
    for sample, twin in zip(a.samples, b.samples, strict=True):
        if (sample.prompt, sample.images) != (twin.prompt, twin.images):
            raise ConfigError(
                f"the runs have different prompts: number {sample.index} is {sample.prompt[:60]!r} and {twin.prompt[:60]!r}. "
                "Run both on the same data set."
            )
    answered = [{r.sample_index for r in run.judged} for run in (a, b)]
    if missing := sorted(answered[0] ^ answered[1]):
        raise ConfigError(
            f"{len(missing)} prompts were answered in one run only; the first is number {missing[0]}. Run both with --mode both, which is "
            "timed and then issues every prompt once, or with --mode accuracy, which is untimed."
        )
    _check_same_form(a, b)


def worst(one: Report, two: Report, judged: Sequence[Verdict], close: Mapping[int, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The prompts that lost most; those that lost nothing are left out. close: similarity by prompt.

    Losses are measured in margins. Prompts are sorted by their loss in metrics that FAIL, then in INCONCLUSIVE ones, then in those that
    PASS, because differences in these may be noise.
    """
    before, after = scores_by_sample(one), scores_by_sample(two)
    lost: dict[int, dict[str, float]] = {}
    for comparison, verdict, _, _ in judged:
        name, sign = comparison.name, 1.0 if comparison.better == "higher" else -1.0
        for i in before[name].keys() & after[name].keys():
            by = lost.setdefault(i, dict.fromkeys(BY_VERDICT, 0.0))
            by[verdict] += sign * (before[name][i] - after[name][i]) / comparison.margin
    loss = {i: tuple(by.values()) for i, by in lost.items()}
    answers = [{s["sample_index"]: s for s in report.data["samples"]} for report in (one, two)]
    rows = []
    for i in sorted((i for i in loss if loss[i] > (0.0, 0.0, 0.0)), key=lambda i: loss[i], reverse=True)[:NUM_WORST]:
        shown = [{k: by_index[i][k] for k in ("media", "text", "status", "scores")} for by_index in answers]
        fell = {
            v.comparison.name: [before[v.comparison.name][i], after[v.comparison.name][i]]
            for v in sorted(judged, key=lambda v: BY_VERDICT.index(v.verdict))
            if _fell(v.comparison, before, after, i)
        }
        pair = {"prompt": answers[0][i]["prompt"], "fell": fell, "closeness": close.get(i), "reference": shown[0], "candidate": shown[1]}
        rows.append({"sample_index": i, **pair})
    return rows


def _check_same_form(a: Run, b: Run) -> None:
    """Compare the saved videos, not the options. A video that cannot be read is skipped: the canary `unreadable` reports it."""
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
                values = f"for prompt {record.sample_index} it is {left:g} and {right:g}"
                raise ConfigError(f"the runs' videos differ in {name}: {values}. Run both with the same {name}.")


def _fell(c: Comparison, before: Mapping[str, Mapping[int, float]], after: Mapping[str, Mapping[int, float]], i: int) -> bool:
    if i not in before[c.name] or i not in after[c.name]:
        return False
    one, two = before[c.name][i], after[c.name][i]
    return two < one if c.better == "higher" else two > one
