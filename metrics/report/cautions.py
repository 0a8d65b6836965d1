"""What a reader of a VALID run must know first: quality at its floor, and what the pipeline declares of itself."""

from __future__ import annotations

from collections.abc import Mapping

from metrics.base import Figure, Run, SampleMetric
from metrics.report.figures import metric_classes

DECLARED = {"never": "never repeat", "in_batch": "repeat only in the batch that they were in"}


def cautions(run: Run, figures: Mapping[str, Figure]) -> list[str]:
    """One sentence each; they make no run INVALID. A gate does: `--set 'gate={world_score: 0.1}'`."""
    found = []
    for metric in metric_classes(run):
        if not issubclass(metric, SampleMetric):
            continue
        for name in metric.headline:
            figure = figures.get(name)
            if figure is not None and figure.n and figure.value == metric.worst:
                found.append(
                    f"{name} is {figure.value:g} over {figure.n} answers, as low as it can be: the answers may be worthless. "
                    f"A gate makes such a run INVALID: --set 'gate={{{name}: 0.1}}'"
                )
    declared = {str(rank.get("repeats", "alone")) for rank in run.ranks} - {"alone"}
    found += [
        f"the pipeline declares that its answers {DECLARED.get(word, word)}; it was not held to the same answers again"
        for word in sorted(declared)
    ]
    return found
