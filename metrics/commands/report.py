from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from configs.command_line import PluginOption, app


@app.command()
def report(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or a bundle of one.")],
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Of a bundle: the folder to unpack into.", show_default="BUNDLE-unpacked")
    ] = None,
    plugin: PluginOption = None,
    brief: Annotated[bool, typer.Option("--brief", help="Verdict and reasons alone, as after a run that was given up.")] = False,
) -> None:
    """Write report.json and report.html of a run folder or a bundle again; no model is needed.

    A bundle is unpacked first. Its files are checked against the hashes of its manifest, and the new report against the one it
    came with.
    """
    from configs.errors import ConfigError
    from metrics.report.finish import finish, report_on_bundle, write_report

    if run_folder.is_file() and not brief:
        report_on_bundle(run_folder, output)
    elif run_folder.is_file() or output is not None:
        raise ConfigError("--output is for bundles, whose report is never --brief; the report of a run folder goes into that folder.")
    else:
        finish(write_report(run_folder, brief))
