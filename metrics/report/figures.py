"""Figures of a run by its metrics, and scores of single answers."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

from configs.errors import PluginError
from configs.registry import BUILT_IN, find, make
from metrics.base import Figure, Metric, Run, SampleMetric
from metrics.report.load_run import find_plugin

QUALITY = "Quality"  # the heading whose figures random weights do not have


class Computed(NamedTuple):
    """scores: by query id and figure. worst: a missing answer's score, by figure, of metrics that score single answers."""

    figures: dict[str, Figure]
    scores: dict[int, dict[str, float]]
    worst: dict[str, float]


def compute_figures(run: Run, names: Sequence[str]) -> Computed:
    """Figures by these metrics, and scores of single answers. Quality is withheld where weights are random."""
    figures: dict[str, Figure] = {}
    scores: dict[int, dict[str, float]] = {}
    worst: dict[str, float] = {}
    for name in names:
        find_plugin(run.folder, "metrics", name)
        metric = make("metrics", name, {})
        if isinstance(metric, SampleMetric):
            by_query = metric.scores(run)
            by_mean = type(metric).compute is SampleMetric.compute  # else its figure is not the mean of the samples' scores
            own = metric.summarise(by_query) if by_mean else metric.compute(run)
            for query_id, found in by_query.items():
                scores.setdefault(query_id, {}).update(found)
                worst |= dict.fromkeys(found, metric.worst)
        else:
            own = metric.compute(run)
        figures |= _without_quality(own, metric) if run.has_random_weights else own
    return Computed(figures, {} if run.has_random_weights else scores, worst)


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
