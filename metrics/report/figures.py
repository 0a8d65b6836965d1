"""Figures of a run by its metrics, and scores of single answers."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

from configs.errors import PluginError, SuiteError, describe
from configs.registry import BUILT_IN, find, make
from metrics.base import Figure, Metric, Run, SampleMetric
from metrics.report.load_run import find_plugin

QUALITY = "Quality"  # the heading whose figures random weights do not have


class Computed(NamedTuple):
    """scores: by query id and figure. worst: a missing answer's score, by figure, of metrics that score single answers.

    errors: by name of each metric that could not be computed; it has no figures and no scores.
    """

    figures: dict[str, Figure]
    scores: dict[int, dict[str, float]]
    worst: dict[str, float]
    errors: dict[str, str]


def compute_figures(run: Run, names: Sequence[str]) -> Computed:
    """Figures by these metrics, and scores of single answers. Quality is withheld where weights are random.

    A metric that raises, or returns something else than figures, costs its own figures alone. Raises SuiteError where a metric is not
    installed, and where a built-in one says what the user has to do.
    """
    computed = Computed({}, {}, {}, {})
    for name in names:
        find_plugin(run.folder, "metrics", name)
        metric = make("metrics", name, {})
        try:
            own, by_query = _compute(metric, run)
        except Exception as error:  # a plugin's code can raise anything
            if isinstance(error, SuiteError) and name in BUILT_IN["metrics"]:
                raise
            computed.errors[name] = describe(error)
            continue
        for query_id, found in by_query.items():
            computed.scores.setdefault(query_id, {}).update(found)
            computed.worst.update(dict.fromkeys(found, metric.worst))
        computed.figures.update(_without_quality(own, metric) if run.has_random_weights else own)
    return computed._replace(scores={}) if run.has_random_weights else computed


def _compute(metric: Any, run: Run) -> tuple[dict[str, Figure], dict[int, dict[str, float]]]:
    """A metric's figures, and its scores by query id. Raises TypeError where it returns something else."""
    by_query: dict[int, dict[str, float]] = {}
    if isinstance(metric, SampleMetric):
        raw = metric.scores(run)
        by_query = {query_id: {str(figure): float(score) for figure, score in found.items()} for query_id, found in raw.items()}
        by_mean = type(metric).compute is SampleMetric.compute  # else its figure is not the mean of the samples' scores
        own = metric.summarise(run, raw) if by_mean else metric.compute(run)
    else:
        own = metric.compute(run)
    if not isinstance(own, Mapping):
        raise TypeError(f"compute returned {own!r:.40}, not a mapping of names to Figures")
    for name, figure in own.items():
        if not isinstance(name, str) or not isinstance(figure, Figure):
            raise TypeError(f"compute returned {name!r:.40}: {figure!r:.40}, not a name and a Figure")
    return {name: _in_floats(name, figure) for name, figure in own.items()}, by_query


def _in_floats(name: str, figure: Figure) -> Figure:
    """The figure with Python's floats instead of numpy's. Raises TypeError where its numbers are none."""
    try:
        value = None if figure.value is None else float(figure.value)
        ci95 = None if figure.ci95 is None else (float(figure.ci95[0]), float(figure.ci95[1]))
        return replace(figure, value=value, ci95=ci95, n=int(figure.n), unit=str(figure.unit), note=str(figure.note))
    except (TypeError, ValueError, IndexError):
        raise TypeError(f"figure {name!r} has value {figure.value!r:.40}, ci95 {figure.ci95!r:.40}, n {figure.n!r:.40}") from None


def plain_figure(figure: Figure) -> dict[str, Any]:
    """The figure for JSON, which has no NaN: such a value becomes None with a note."""
    if figure.value is not None and not math.isfinite(figure.value):
        figure = replace(figure, value=None, ci95=None, note=figure.note or "not a finite number")
    plain = asdict(figure)
    plain["ci95"] = list(figure.ci95) if figure.ci95 else None
    return plain


def metric_classes(run: Run) -> list[type[Metric]]:
    """The run's metrics, built-in ones first and in the registry's order; plugins that are not installed here are left out."""
    built_in = list(BUILT_IN["metrics"])
    order = sorted(run.metric_names, key=lambda name: built_in.index(name) if name in built_in else len(built_in))
    classes: list[type[Metric]] = []
    for name in order:
        with contextlib.suppress(PluginError):
            classes.append(find("metrics", name))
    return classes


def headline_names(runs: Iterable[Run]) -> list[str]:
    """The headline figures of the runs' metrics."""
    classes = dict.fromkeys(metric for run in runs for metric in metric_classes(run))
    return list(dict.fromkeys(name for metric in classes for name in metric.headline))


def heading(figure: str, metrics: Iterable[type[Metric]]) -> str | None:
    """The heading that one of the metrics gives the figure; None where none does."""
    for metric in metrics:
        for title, marks in metric.headings.items():
            if any(figure.endswith(mark) if mark.startswith("_") else figure.startswith(mark) for mark in marks):
                return title
    return None


def _without_quality(figures: Mapping[str, Figure], metric: Metric) -> dict[str, Figure]:
    note = "withheld: random weights have no quality"
    hidden = {n for n, f in figures.items() if f.value is not None and heading(n, [type(metric)]) == QUALITY}
    return {n: replace(f, value=None, ci95=None, note=note) if n in hidden else f for n, f in figures.items()}
