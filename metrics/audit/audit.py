"""The audit: a candidate run compared with a reference run of the same prompts and seeds, answer by answer.

PASS: no quality metric is worse by its margin. FAIL: one is. INCONCLUSIVE: the prompts are too few to decide; the audit states how many
more are needed. It also reports speed, and how similar the answers are to the reference's, which does not affect the verdict: an answer
that differs is not necessarily worse.
Statistics: metrics/statistics/paired.py.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from configs.errors import ConfigError, unknown
from metrics.audit.pairs import check_pairs, worst
from metrics.audit.sample_size import Effect, parse_effect
from metrics.base import Run
from metrics.performance.speed import speed_up, throughput
from metrics.report.recompute import add_metrics, recompute, scores_by_sample
from metrics.report.report import Report
from metrics.report.run_facts import different_facts, facts
from metrics.similarity.pairwise import closeness
from metrics.statistics.bootstrap import Interval, clustered_ratio, joint_clusters
from metrics.statistics.clusters import prompt_cluster
from metrics.statistics.paired import ALPHA, Comparison, compare_means, compare_shares, further_samples, verdicts
from metrics.validity.gates import scenario_of
from workloads.mlperf.notices import notices
from workloads.mlperf.run_rules import shown_benchmark
from workloads.records import Record

SCHEMA = "triptych-audit/1"
DEFAULT_MARGIN = "1%"


def audit(
    reference: Path, candidate: Path, margin: str | None = None, names: Sequence[str] = (), allow_invalid: bool = False
) -> dict[str, Any]:
    """Return the content of audit.json.

    margin: the tolerated loss of quality: `1%` of the reference's mean, or an amount such as `0.01`. The default is what the gates of the
    reference's MLPerf benchmark tolerate, or 1%. names: the metrics to judge. The default is all metrics of the workload and of either run
    that score single answers and have a better direction; both runs are scored by all of them.
    Raises ConfigError for runs that cannot be compared, naming the difference.
    """
    given = parse_effect(margin, "--margin") if margin is not None else None
    one, two = (_load(folder, allow_invalid) for folder in (reference, candidate))
    check_pairs(one, two)
    metrics = list(dict.fromkeys((*one.run.workload.default_metrics, *one.run.metric_names, *two.run.metric_names)))
    one, two = add_metrics(one, metrics), add_metrics(two, metrics)  # a run must not pass by leaving out a metric
    effect, margin_from = (given, "as given") if given else _default_margin(one.run)
    comparisons, left_out, unpaired = _comparisons(one, two, effect, names)
    result = verdicts(comparisons)
    close = closeness(one.run, two.run)
    each = []
    for v in result.each:
        more = further_samples(v.comparison, ALPHA / len(comparisons)) if v.verdict == "INCONCLUSIVE" else 0
        numbers = {"relative": v.comparison.difference / abs(v.comparison.reference) if v.comparison.reference else None}
        adjusted = {"p_not_worse_holm": v.p_not_worse, "p_worse_holm": v.p_worse}
        each.append({**asdict(v.comparison), **numbers, **adjusted, "verdict": v.verdict, "further_samples": more})
    return {
        "schema": SCHEMA,
        "verdict": result.overall,
        "margin": effect.text,
        "margin_from": margin_from,
        "workload": one.run.config.workload,
        "rules": one.run.config.rules,
        "notice": notices((one.run.config, two.run.config)),
        "reference": _description(one, reference),
        "candidate": _description(two, candidate),
        "differs": different_facts(facts(one), facts(two)),
        "num_pairs": len(one.run.judged),
        "speed": _speed(one.run, two.run),
        "metrics": each,
        "left_out": left_out,
        "unpaired": unpaired,
        "closeness": close,
        "worst": worst(one, two, result.each, {p["sample_index"]: p for p in close["pairs"]}),
    }


def _load(folder: Path, allow_invalid: bool) -> Report:
    report = recompute(folder)
    reasons = report.data["reasons"]
    if reasons and not allow_invalid:
        raise ConfigError(
            f"run {str(folder)!r} is INVALID and cannot be audited: {reasons[0]}. "
            "Use --allow-invalid to audit it anyway; the result is marked."
        )
    return report


def _default_margin(run: Run) -> tuple[Effect, str]:
    """The smallest loss that a gate of the run's benchmark tolerates, and its source."""
    benchmark = shown_benchmark(run.config)
    gates = scenario_of(benchmark, run.config.scenario).gates if benchmark else ()
    losses = [1 - gate.at_least / gate.target for gate in gates if gate.at_least is not None]
    if benchmark is None or not losses:
        return parse_effect(DEFAULT_MARGIN, "--margin"), "usual: the reference is of no MLPerf benchmark"
    return parse_effect(f"{100 * min(losses):.4g}%", "--margin"), f"the gate of {benchmark.name} in MLPerf {benchmark.round}"


class Scores(NamedTuple):
    """Scores of the same answers in both runs, and the cluster of each."""

    reference: Sequence[float]
    candidate: Sequence[float]
    clusters: Sequence[Hashable]


def _comparisons(
    one: Report, two: Report, effect: Effect, names: Sequence[str]
) -> tuple[list[Comparison], dict[str, str], dict[str, dict[str, int]]]:
    """Compare every metric that can be judged. Returns the comparisons, why the other metrics are left out, and how many answers have a
    score in one run only, by metric.
    """
    before, after = scores_by_sample(one), scores_by_sample(two)
    of_prompt = [prompt_cluster(sample.prompt, sample.images) for sample in one.run.samples]
    known = list(dict.fromkeys((*before, *after)))
    for name in names:
        if name not in known:
            raise ConfigError(unknown("metric", name, known))
    comparisons: list[Comparison] = []
    left_out: dict[str, str] = {}
    unpaired: dict[str, dict[str, int]] = {}
    for name in names or known:
        better = next(r.data["figures"][name]["better"] for r in (one, two) if name in r.data["figures"])
        if better == "neither":
            left_out[name] = "the metric has no better direction"
            continue
        columns = before.get(name, {}), after.get(name, {})
        both = sorted(columns[0].keys() & columns[1].keys())
        only = [sorted(mine.keys() - others.keys()) for mine, others in (columns, columns[::-1])]
        if any(only):
            unpaired[name] = {"reference": len(only[0]), "candidate": len(only[1])}
        scores = Scores([columns[0][i] for i in both], [columns[1][i] for i in both], [of_prompt[i] for i in both])
        margin = effect.margin(math.fsum(scores.reference) / len(both)) if both else 0.0
        if len(both) < 2:
            left_out[name] = "only one score" if both else "no answer has a score in both runs"
        elif not all(map(math.isfinite, (*scores.reference, *scores.candidate))):
            raise ConfigError(f"{name} has scores that are not finite. Choose other metrics with --metric NAME.")
        elif margin <= 0:
            left_out[name] = f"{effect.text} of a mean of 0 is 0; give an amount, such as --margin 0.01"
        else:
            worst_score = one.worst.get(name, 0.0)
            lost = Scores([columns[0][i] for i in only[0]], [worst_score] * len(only[0]), [of_prompt[i] for i in only[0]])
            comparisons.append(_comparison(name, scores, lost, margin, better, worst_score))
    if names and left_out:
        raise ConfigError("not every --metric can be judged: " + "; ".join(f"{name}: {why}" for name, why in left_out.items()))
    if not comparisons:
        raise ConfigError("no metric of these runs can be audited: " + "; ".join(f"{name}: {why}" for name, why in left_out.items()))
    return comparisons, left_out, unpaired


def _comparison(
    name: str, scores: Scores, lost: Scores, margin: float, better: Literal["higher", "lower"], worst_score: float
) -> Comparison:
    """The comparison of the answers that both runs have a score for.

    lost: those that only the reference has, with the worst score for the candidate. They count for "not worse" alone, so that a candidate
    neither passes by answers that cannot be scored nor fails by them.
    """

    def compare(reference: Sequence[float], candidate: Sequence[float], clusters: Sequence[Hashable]) -> Comparison:
        if all(v in (0.0, 1.0) for v in (*reference, *candidate)) and margin < 1:
            return compare_shares(name, reference, candidate, margin, clusters)
        return compare_means(name, reference, candidate, margin, better, worst_score, clusters)

    found = compare(*scores)
    if not lost.reference:
        return found
    with_lost = compare([*scores.reference, *lost.reference], [*scores.candidate, *lost.candidate], [*scores.clusters, *lost.clusters])
    ends = [c.ci95 for c in (found, with_lost)]
    return replace(
        found,
        ci95=Interval(min(end.low for end in ends if end), ends[0].high) if ends[0] else None,
        bound95=min((c.bound95 for c in (found, with_lost) if c.bound95 is not None), default=None),
        p_not_worse=max(found.p_not_worse, with_lost.p_not_worse),
    )


def _speed(a: Run, b: Run) -> dict[str, Any]:
    """Speed-ups; above 1 the candidate is faster. paired: by the service time of the same prompts, a batch's divided by its answers."""
    speed: dict[str, Any] = {"paired": None, "throughput": None}
    rows = [_first_done(run) for run in (a, b)]
    both = sorted(rows[0].keys() & rows[1].keys())
    if both:
        seconds = [[max(_seconds(row[i]), 1e-9) for i in both] for row in rows]
        labels = [[(row[i].rank, row[i].started_s) if row[i].batch_size > 1 else i for i in both] for row in rows]
        ratio = clustered_ratio(seconds[0], seconds[1], joint_clusters(*labels))
        speed["paired"] = {"value": ratio.value, "ci95": ratio.ci95, "n": len(both)}
    speeds = [throughput(run) for run in (a, b)]
    if speeds[0] and speeds[1]:
        change = speed_up(speeds[0], speeds[1])
        speed["throughput"] = {"value": change.value, "ci95": change.ci95}
    return speed


def _first_done(run: Run) -> dict[int, Record]:
    records: dict[int, Record] = {}
    for record in run.timed:
        if record.status == "done":
            records.setdefault(record.sample_index, record)
    return records


def _seconds(record: Record) -> float:
    start_s = record.issued_s if record.started_s is None else record.started_s
    return (record.completed_s - start_s) / record.batch_size


def _description(report: Report, folder: Path) -> dict[str, Any]:
    effective: Mapping[str, Any] = report.data["effective"]
    return {"run": report.data["run"], "folder": str(folder), "verdict": report.data["verdict"], "effective": dict(effective)}
