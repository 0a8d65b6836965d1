"""Figures of a run by its metrics, and scores of single answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from configs.registry import make
from metrics.base import Figure, Run, SampleMetric
from metrics.report.load_run import find_plugin

# The figures that say most of answers' quality, one a kind.
QUALITY = (
    "world_score",
    "exact_match",
    "rouge_l",
    "hierarchical_f1",
    "gpt_oss_accuracy",
    "deepseek_r1_accuracy",
    "vbench",
    "first_frame_psnr",
)

# How the figures begin that say how good answers are.
OF_QUALITY = (
    *("world_", "exact_match", "rouge_", "hierarchical_", "category_", "brand_", "is_secondhand_", "secondhand_"),
    *("temporal_", "motion_", "dynamic_", "vbench", "gpt_oss_", "deepseek_", "accuracy", "first_frame_"),
)


def compute_figures(run: Run, names: Sequence[str]) -> tuple[dict[str, Figure], dict[int, dict[str, float]]]:
    """By these metrics; scores by query id. Of random weights no quality is told."""
    figures: dict[str, Figure] = {}
    scores: dict[int, dict[str, float]] = {}
    for name in names:
        find_plugin(run.folder, "metrics", name)
        metric = make("metrics", name, {})
        if isinstance(metric, SampleMetric):
            by_query = metric.scores(run)
            by_mean = type(metric).compute is SampleMetric.compute  # else its figure is no mean of the samples' scores
            figures |= metric.summarise(by_query) if by_mean else metric.compute(run)
            for query_id, found in by_query.items():
                scores.setdefault(query_id, {}).update(found)
        else:
            figures |= metric.compute(run)
    if run.has_random_weights:
        return {name: _withheld(name, figure) for name, figure in figures.items()}, {}
    return figures, scores


def plain_figure(figure: Figure) -> dict[str, Any]:
    """JSON knows no NaN: such a value is None, with a note."""
    if figure.value is not None and not math.isfinite(figure.value):
        figure = replace(figure, value=None, ci95=None, note=figure.note or "not a finite number")
    plain = asdict(figure)
    plain["ci95"] = list(figure.ci95) if figure.ci95 else None
    return plain


def _withheld(name: str, figure: Figure) -> Figure:
    """A figure of quality, without its value."""
    if figure.value is None or not name.startswith(OF_QUALITY):
        return figure
    return replace(figure, value=None, ci95=None, note="withheld: random weights have no quality")
