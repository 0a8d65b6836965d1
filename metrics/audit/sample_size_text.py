"""Output of suite.py sample-size: a table for people and a JSON line for programs."""

from __future__ import annotations

from typing import Any

from configs.output import open_console
from metrics.audit.sample_size import Plan
from metrics.report.html.render import number
from metrics.statistics.power_analysis import AT_MOST


def plain(plan: Plan) -> dict[str, Any]:
    """The JSON line for programs."""
    return {
        "run": plan.run,
        "beside": plan.beside,
        "effect": plan.effect.text,
        "power": plan.power,
        "alpha": plan.alpha,
        "alpha_each": plan.alpha / len(plan.needs),
        "pairs": plan.pairs,
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
            for need in plan.needs
        },
        "left_out": dict(plan.left_out),
    }


def print_plan(plan: Plan) -> None:
    """Print the table and its assumptions to stderr."""
    from rich.table import Table

    console = open_console(width=150)
    loss = f"{plan.effect.text} of its mean" if plan.effect.relative else plan.effect.text
    console.print(
        f"pairs with which a candidate that is truly as good is shown to lose less than {loss}, with a chance of {plan.power:.0%}",
    )
    table = Table(box=None, pad_edge=False, header_style="dim")
    heads = ["metric", "mean", "spread", "margin"]
    heads += ["r measured", "pairs"] if plan.beside else [f"pairs, r = {c}" for c in plan.columns]
    for i, head in enumerate(heads):
        table.add_column(head, justify="right" if i else "left", no_wrap=True)
    for need in plan.needs:
        cells = [f"{value:,}" if value is not None else f"over {AT_MOST:,}" for value in need.pairs.values()]
        measured = [f"{need.correlation:.2f}" if need.correlation is not None else "-"] if plan.beside else []
        table.add_row(need.name, number(need.mean), number(need.spread), f"{need.margin:.3g}", *measured, *cells)
    console.print(table)
    for line in _caveats(plan):
        console.print(f"  {line}")


def _caveats(plan: Plan) -> list[str]:
    n, num_metrics = max(need.n for need in plan.needs), len(plan.needs)
    if plan.beside:
        about = (
            f"r: correlation of the two runs' scores over {n} prompts. A candidate that differs more than this second run needs more pairs."
        )
    else:
        about = (
            f"r: correlation of the two runs' scores over prompts. {n} answers of one run show how much scores vary, but not r. 0 is the "
            "safe assumption: two runs agree no more than by chance. A candidate close to its reference agrees far more; --beside RUN "
            "measures it."
        )
    level = f"Level: {plan.alpha:g} for {num_metrics} metric{'s' * (num_metrics > 1)} together, {plan.alpha / num_metrics:.2g} each"
    return [
        about,
        level + ("; --metric NAME plans for fewer." if num_metrics > 1 else "."),
        "A pair is one prompt that both runs answer; a second answer to the same prompt is no new pair.",
        *(f"{need.name}: {need.note}" for need in plan.needs if need.note),
        *(f"{name} is left out: {why}" for name, why in plan.left_out.items()),
    ]
