from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from configs.command_line import MetricOption, PluginOption, app
from configs.output import print_line


@app.command("sample-size")
def sample_size(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="The run folder of a reference.")],
    effect: Annotated[
        str, typer.Option(metavar="LOSS", help="Loss of quality to rule out: 1% of each metric's mean, or an amount such as 0.01.")
    ],
    power: Annotated[float, typer.Option(metavar="P", help="Chance that a candidate which is truly as good is shown to be.")] = 0.8,
    alpha: Annotated[
        float, typer.Option(metavar="P", help="Chance that any metric worse by the effect passes, all metrics together.")
    ] = 0.05,
    correlation: Annotated[
        float | None, typer.Option(metavar="R", help="Assumed between the two runs' scores.", show_default="0, 0.5 and 0.9")
    ] = None,
    beside: Annotated[
        Path | None, typer.Option(metavar="RUN", help="A second run of the same prompts, to measure how far two agree.")
    ] = None,
    metric: MetricOption = None,
    plugin: PluginOption = None,
) -> None:
    """How many prompts an audit needs to show that a candidate is not worse, from a run's own scores."""
    from metrics.audit.sample_size import plan
    from metrics.audit.sample_size_text import plain, print_plan

    planned = plan(run_folder, effect, power, alpha, correlation, beside, metric or [])
    print_plan(planned)
    print_line(plain(planned))
