from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from configs.command_line import PluginOption, app
from configs.output import print_line


@app.command()
def combine(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders, in the order in which they are shown.")],
    output: Annotated[Path, typer.Option(metavar="FILE", help="The page to write.")] = Path("outputs/combined.html"),
    plugin: PluginOption = None,
) -> None:
    """Write one page over several runs, such as the three panels. Verdicts and figures are worked out again, as by audit."""
    from metrics.report.html.combined import write_combined

    write_combined(runs, output)
    print_line({"combined": str(output.resolve()), "runs": [str(run.resolve()) for run in runs]})
