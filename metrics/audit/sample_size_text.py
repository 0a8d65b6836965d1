"""A plan of how many prompts an audit needs: the table for people and the line for programs."""

from __future__ import annotations

from typing import Any

from metrics.audit.sample_size import Plan
from metrics.report.html.render import number
from metrics.statistics.power_analysis import AT_MOST


def plain(found: Plan) -> dict[str, Any]:
    """The line for programs."""
    return {
        "run": found.run,
        "beside": found.beside,
        "effect": found.effect.text,
        "power": found.power,
        "alpha": found.alpha,
        "alpha_each": found.alpha / len(found.needs),
        "pairs": found.pairs,
        "metrics": {
            need.name: {
                "kind": need.kind,
                "n": need.n,
                "mean": need.mean,
                "spread": need.spread,
                "margin": need.margin,
                "correlation": need.correlation,
                "pairs": dict(need.pairs),
            }
            for need in found.needs
        },
        "left_out": dict(found.left_out),
    }


def print_plan(found: Plan) -> None:
    """The table for people, to stderr, with what it assumes."""
    from rich.console import Console
    from rich.table import Table

    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        console = Console(stderr=True, highlight=False, width=150)
    what = f"{found.effect.text} of its mean" if found.effect.relative else found.effect.text
    console.print(
        f"pairs of answers that show a candidate, truly as good, to be worse by less than {what}, with a chance of {found.power:.0%}",
        markup=False,
    )
    table = Table(box=None, pad_edge=False, header_style="dim")
    heads = ["metric", "mean", "spread", "margin"]
    heads += ["r seen", "pairs"] if found.beside else [f"pairs, r = {c}" for c in found.columns]
    for i, head in enumerate(heads):
        table.add_column(head, justify="right" if i else "left", no_wrap=True)
    for need in found.needs:
        cells = [f"{value:,}" if value is not None else f"over {AT_MOST:,}" for value in need.pairs.values()]
        seen = [f"{need.correlation:.2f}" if need.correlation is not None else "-"] if found.beside else []
        table.add_row(need.name, number(need.mean), number(need.spread), f"{need.margin:.3g}", *seen, *cells)
    console.print(table)
    for line in _caveats(found):
        console.print(f"  {line}", markup=False)


def _caveats(found: Plan) -> list[str]:
    n, together = max(need.n for need in found.needs), len(found.needs)
    if found.beside:
        about = (
            f"r: correlation of the two runs' scores over {n} prompts. A candidate that differs more than this second run needs more pairs."
        )
    else:
        about = (
            f"r: correlation of the two runs' scores over prompts. {n} answers of one run show how much scores vary, but not r. At 0 two "
            "runs agree no more than by chance: the safe plan. A candidate close to its reference agrees far more; --beside RUN shows it."
        )
    level = f"Level: {found.alpha:g} for {together} metric{'s' * (together > 1)} together, {found.alpha / together:.2g} each"
    return [
        about,
        level + ("; --metric NAME plans for fewer." if together > 1 else "."),
        "A pair is one prompt, answered by both runs; a second answer to the same prompt is no new pair.",
        *(f"{need.name}: {need.note}" for need in found.needs if need.note),
        *(f"{name} is left out: {why}" for name, why in found.left_out.items()),
    ]
