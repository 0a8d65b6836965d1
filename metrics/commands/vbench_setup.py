from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from configs.command_line import app
from configs.output import echo, print_line, say


@app.command("vbench-setup")
def vbench_setup(
    python: Annotated[str, typer.Option(metavar="PYTHON", help="A Python 3.10 or 3.11.")] = "python3.10",
    directory: Annotated[
        Path | None, typer.Option("--dir", metavar="DIR", help="The folder to make.", show_default="~/.cache/triptych/vbench")
    ] = None,
    torch_index: Annotated[
        str | None, typer.Option(metavar="URL", help="The index with torch, such as ROCm's.", show_default="pip's own")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the commands, and run none.")] = False,
) -> None:
    """Make the environment that VBench needs for itself, with pinned packages; some gigabytes are downloaded."""
    from metrics.quality.vbench.environment import plan_setup, set_up

    planned = plan_setup(python, directory, torch_index)
    if dry_run:
        for command in planned.commands:
            echo(" ".join(command))
    else:
        set_up(planned, say)
    print_line({"vbench": str(planned.folder.resolve()), "dry_run": dry_run})
