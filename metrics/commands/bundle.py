from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from configs.command_line import RunArgument, app
from configs.output import print_line, say


@app.command()
def bundle(
    run_folder: RunArgument,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="The file to write.", show_default="RUN.zip")] = None,
) -> None:
    """Pack a run folder into one file, from which another machine makes the same report: suite.py report RUN.zip."""
    from workloads.run_folder.bundle import write_bundle
    from workloads.run_folder.manifest import modifications

    written = write_bundle(run_folder, output)
    for reason in modifications(run_folder):
        say(f"its report will be INVALID: {reason}")
    print_line({**written._asdict(), "path": str(written.path.resolve())})
