"""The report in the terminal: verdict, reasons, figures."""

from __future__ import annotations

import os

from configs.output import open_console, styled
from metrics.performance.speed import speed_remark
from metrics.report.html.render import number
from metrics.report.report import Report


def print_summary(report: Report) -> None:
    """Print to stderr, so that stdout holds only the last JSON line."""
    from rich.table import Table

    console = open_console()
    data = report.data
    colour = "green" if report.valid else "red"
    console.print(
        styled(data["verdict"], f"bold {colour}"),
        f"{data['workload']} {data['scenario']}, {data['device']}, "
        f"{data['num_queries']['done']} of {data['num_queries']['issued']} queries (rules: {data['rules']})",
        sep="  ",
    )
    console.print(f"  {data['notice']}", style="dim")
    if prompts := data.get("prompts"):
        console.print(f"  {prompts['num']} prompts, the first: {prompts['first']!r}", style="dim")
    if data.get("random_weights"):
        console.print("  random weights: figures of quality are withheld")
    if loosened := data.get("loosened"):
        console.print("  canaries with another tolerance: " + ", ".join(f"{name}: {how}" for name, how in loosened.items()))
    for reason in data["reasons"]:
        console.print(f"  - {reason}")
    for caution in data.get("cautions", ()):
        console.print(f"  ! {caution}", style="yellow")
    for note in data.get("notes", ()):
        console.print(f"  differs from the reference: {note}")
    for attempt in data.get("attempts", ()):
        console.print(f"  run again, the first test not counted: {attempt['note']}")
    if data["figures"] and (sentence := speed_remark(report.run)):
        console.print(f"  {sentence}")
    value = "value" if data["rules"] == "quick" else "value, unverified"
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column, justify in (("figure", "left"), (value, "right"), ("95 % interval", "right"), ("n", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for name, figure in data["figures"].items():
        beside = figure["note"] if figure["value"] is not None else ""
        interval = f"{number(figure['ci95'][0])} to {number(figure['ci95'][1])}" if figure["ci95"] else beside
        table.add_row(
            name, number(figure["value"], figure["unit"]) if figure["value"] is not None else figure["note"], interval, str(figure["n"])
        )
    console.print(table)
    for gate in data["gates"]:
        sign = {True: "holds", False: "does not hold", None: "undecided"}[gate["holds"]]
        console.print(f"gate of {gate['of']}: {sign}{'' if gate['decides'] else ' (shown only)'}: {gate['why']}")
    if search := data.get("search"):
        best, sure = search["max_valid_qps"], "confirmed" if search["confirmed"] else "not confirmed"
        console.print(f"highest VALID rate: {number(best, 'queries/s')} ({sure})" if best else "highest VALID rate: none was found")
    console.print(f"report: {os.path.relpath(report.run.folder / 'report.html')}")
