"""Plans the number of prompts that an audit of a run's quality metrics needs, from that run's own scores.

A plan states each metric's scores in the run, the margin, and the smallest number of pairs with which a candidate that is truly as good is
shown to be not worse, with the requested power. One run cannot show how far the two runs of an audit will agree prompt by prompt: their
correlation is assumed, and several values are shown, or it is measured with a second run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from configs.errors import ConfigError, unknown
from metrics.report.recompute import recompute, scores_by_sample
from metrics.report.report import Report
from metrics.statistics.power_analysis import Tail, pairs_for_mean, pairs_for_shares

CORRELATIONS = (0.0, 0.5, 0.9)  # assumed where none is known
MEASURED = "seen"  # the key of the number of pairs that a second run showed
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Effect:
    """The loss of quality to rule out: an amount, or a share of the metric's mean."""

    text: str
    value: float
    relative: bool

    def margin(self, mean: float) -> float:
        return self.value * abs(mean) if self.relative else self.value


@dataclass(frozen=True, slots=True)
class Need:
    """The pairs that one metric needs, by assumed correlation or under MEASURED; None: over AT_MOST.

    spread: standard deviation of its n scores. correlation: measured with a second run; None without one, and where a run's scores are all
    equal.
    """

    name: str
    kind: Literal["mean", "share"]
    n: int
    mean: float
    spread: float
    margin: float
    pairs: Mapping[str, int | None]
    correlation: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """alpha: for all metrics together; each is planned at alpha / number of metrics. left_out: reasons by metric."""

    run: str
    beside: str | None
    effect: Effect
    power: float
    alpha: float
    needs: Sequence[Need]
    left_out: Mapping[str, str]

    @property
    def columns(self) -> list[str]:
        return list(self.needs[0].pairs)

    @property
    def pairs(self) -> dict[str, int | None]:
        """The number of pairs that is enough for every metric, by column; None: over AT_MOST."""
        pairs: dict[str, int | None] = {}
        for column in self.columns:
            each = [need.pairs[column] for need in self.needs]
            known = [number for number in each if number is not None]
            pairs[column] = max(known) if len(known) == len(each) else None
        return pairs


def plan(
    folder: Path,
    effect: str,
    power: float = 0.8,
    alpha: float = 0.05,
    correlation: float | None = None,
    beside: Path | None = None,
    names: Sequence[str] = (),
) -> Plan:
    """Plan an audit of the named metrics, or of all that can be worse, with the run as reference.

    effect: `1%` of each metric's mean, or an amount such as `0.01`. beside: a second run of the same prompts. Raises ConfigError for
    invalid settings, and for runs that no plan can be based on.
    """
    loss = parse_effect(effect)
    if not 0 < alpha < 0.5:
        raise ConfigError(f"--alpha must be between 0 and 0.5, such as 0.05, got {alpha:g}: it is the chance of a wrong verdict.")
    if not alpha < power < 1:
        raise ConfigError(
            f"--power must be between --alpha ({alpha:g}) and 1, such as 0.8, got {power:g}: it is the chance that a good candidate passes."
        )
    if correlation is not None and beside is not None:
        raise ConfigError("--correlation cannot be combined with --beside: the second run shows the correlation.")
    if correlation is not None and not -1 < correlation < 1:
        raise ConfigError(f"--correlation must be between -1 and 1, got {correlation:g}.")
    report, other = _load(folder), _load(beside) if beside else None
    if other:
        _check_same_prompts(report, other)
    scores = scores_by_sample(report)
    if not scores:
        raise ConfigError(f"run {str(folder)!r} has no metric that scores single answers, such as world_score, exact_match or rouge.")
    for name in names:
        if name not in scores:
            raise ConfigError(f"{unknown('metric', name, scores)} (of run {str(folder)!r})")
    columns = {name: scores[name] for name in names or scores}
    left_out = {name: reason for name in columns if (reason := _reason_left_out(report, name, columns[name], loss))}
    planned = [name for name in columns if name not in left_out]
    needs = []
    for name in planned:
        worst, each = report.worst.get(name, 0.0), alpha / len(planned)
        try:
            if other:
                needs.append(_measured_need(name, columns[name], scores_by_sample(other).get(name, {}), worst, loss, power, each))
            else:
                assumed = CORRELATIONS if correlation is None else (correlation,)
                needs.append(_assumed_need(name, columns[name], assumed, worst, loss, power, each))
        except ValueError as error:
            left_out[name] = str(error)
    if not needs:
        raise ConfigError(f"nothing to plan for {str(folder)!r}: " + "; ".join(f"{name}: {why}" for name, why in left_out.items()))
    return Plan(str(folder), str(beside) if beside else None, loss, power, alpha, needs, left_out)


def parse_effect(text: str, option: str = "--effect") -> Effect:
    """Parse `1%`, or an amount above 0."""
    relative = text.strip().endswith("%")
    try:
        value = float(text.strip().removesuffix("%")) / (100 if relative else 1)
    except ValueError:
        value = math.nan
    if not (0 < value < math.inf) or (relative and value >= 1):
        raise ConfigError(f"{option} must be a share of the mean such as 1%, or an amount such as 0.01, got {text!r}.")
    return Effect(text.strip(), value, relative)


def _load(folder: Path) -> Report:
    report = recompute(folder)
    if reasons := report.data["reasons"]:
        raise ConfigError(f"run {str(folder)!r} is INVALID, so no plan can be based on it: {reasons[0]}")
    return report


def _reason_left_out(report: Report, name: str, scores: Mapping[int, float], effect: Effect) -> str:
    """Why the metric cannot be planned; empty if it can."""
    values = np.array(list(scores.values()))
    if report.data["figures"].get(name, {}).get("better") == "neither":
        return "the metric has no better direction"
    if len(values) < 2:
        return "only one score"
    if not np.all(np.isfinite(values)):
        return "some scores are not finite"
    margin = effect.margin(float(values.mean()))
    if margin <= 0:
        return f"{effect.text} of a mean of 0 is 0; give an amount, such as --effect 0.01"
    if _kind(values) == "share" and margin >= 1:
        return f"a share cannot fall by {margin:g}"
    return ""


def _kind(values: Floats) -> Literal["mean", "share"]:
    return "share" if np.all((values == 0) | (values == 1)) else "mean"


def _assumed_need(
    name: str, scores: Mapping[int, float], correlations: Sequence[float], worst: float, effect: Effect, power: float, alpha: float
) -> Need:
    """Plan from one run: variance of a difference = 2 * variance of a score * (1 - correlation).

    Raises ValueError if the run does not show the variance.
    """
    values = np.array(list(scores.values()))
    n, mean, spread = len(values), float(values.mean()), float(values.std(ddof=1))
    margin, kind, note = effect.margin(mean), _kind(values), ""
    pairs: dict[str, int | None] = {}
    share = mean
    if kind == "share" and mean in (0.0, 1.0):
        share = abs(mean - 1 / (n + 2))
        note = f"all {n} answers are {'right' if mean else 'wrong'}; planned as if 1 in {n + 2} were not"
    elif kind == "mean" and spread <= 1e-12 * abs(mean):
        raise ValueError(f"all {n} scores are {mean:g}, so their variance is unknown")
    for correlation in correlations:
        if kind == "share":
            either = share * (1 - share) * (1 - correlation)  # share of prompts that only one of the runs gets right, for each run
            if either > 0.5:
                raise ValueError(f"right and wrong answers of a mean of {mean:.3g} cannot have a correlation of {correlation:g}")
            number = pairs_for_shares(-margin, either, either, alpha, power)
        else:
            tail = Tail(float(np.abs(values - mean).max()) / spread, n)
            reach = float(np.ptp(np.append(values, worst)))
            number = pairs_for_mean(-margin, 0.0, spread * math.sqrt(2 * (1 - correlation)), alpha, power, reach, tail)
        pairs[f"{correlation:g}"] = number
    return Need(name, kind, n, mean, spread, margin, pairs, note=note)


def _measured_need(
    name: str, scores: Mapping[int, float], others: Mapping[int, float], worst: float, effect: Effect, power: float, alpha: float
) -> Need:
    """Plan from the differences to a second run. Raises ValueError if they have no spread."""
    both = sorted(scores.keys() & others.keys())
    if len(both) < 2:
        raise ValueError("the second run has no such scores for the same prompts")
    one, two = (np.array([column[i] for i in both]) for column in (scores, others))
    n, mean, spread = len(both), float(one.mean()), float(one.std(ddof=1))
    margin, note = effect.margin(mean), ""
    correlation = float(np.corrcoef(one, two)[0, 1]) if np.ptp(one) > 0 and np.ptp(two) > 0 else None
    kind = _kind(np.concatenate([one, two]))
    differences = two - one
    if kind == "share":
        differing = float(np.abs(differences).mean())
        if differing == 0:
            differing = 1 / (n + 2)
            note = f"the runs agree on all {n} prompts; planned as if they disagreed on 1 in {n + 2}"
        pairs = pairs_for_shares(-margin, differing / 2, differing / 2, alpha, power)
    else:
        difference_spread = float(differences.std(ddof=1))
        if difference_spread <= 1e-12 * float(np.abs(one).max()):
            raise ValueError(f"all {n} pairs differ by {float(differences.mean()):g}, so the variance of differences is unknown")
        tail = Tail(float(np.abs(differences - differences.mean()).max()) / difference_spread, n)
        reach = float(np.ptp(np.concatenate([one, two, [worst]])))
        pairs = pairs_for_mean(-margin, 0.0, difference_spread, alpha, power, reach, tail)
    return Need(name, kind, n, mean, spread, margin, {MEASURED: pairs}, correlation, note)


def _check_same_prompts(report: Report, other: Report) -> None:
    for sample, twin in zip(report.run.samples, other.run.samples, strict=False):
        if (sample.prompt, sample.images) != (twin.prompt, twin.images):
            raise ConfigError(
                f"the runs have different prompts: number {sample.index} is {sample.prompt[:60]!r} and {twin.prompt[:60]!r}. "
                "Use --beside with a run that has the same data set options and seed."
            )
    if report.run.config.workload != other.run.config.workload:
        raise ConfigError(f"the runs are of different workloads: {report.run.config.workload} and {other.run.config.workload}")
