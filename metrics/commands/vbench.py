from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from configs.command_line import app


@app.command()
def vbench(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder with videos of VBench's prompts.")],
    directory: Annotated[
        Path | None, typer.Option("--dir", metavar="DIR", help="VBench's environment.", show_default="~/.cache/triptych/vbench")
    ] = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="Without a GPU, in hours.")] = False,
) -> None:
    """Score a run's videos with VBench in its own environment, and write the report again with its score."""
    from metrics.quality.vbench.environment import evaluate
    from metrics.report.finish import finish, write_report
    from metrics.report.load_run import load_run

    evaluate(load_run(run_folder), directory, cpu)
    finish(write_report(run_folder))
