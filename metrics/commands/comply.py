from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from configs.command_line import EXIT_INVALID, PluginOption, app
from configs.output import print_line


@app.command()
def comply(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run with a performance test.")],
    test: Annotated[
        list[str] | None,
        typer.Option(metavar="TEST", help="TEST01, 04, 06, 07 or 09; repeatable.", show_default="all that apply"),
    ] = None,
    output: Annotated[Path | None, typer.Option(metavar="DIR", help="The folder to write.", show_default="RUN-compliance")] = None,
    plugin: PluginOption = None,
) -> None:
    """MLPerf's compliance tests: run a run's own set-up again under each test's LoadGen settings, on as many ranks, and judge it.

    Those that are in the folder already stay. Exit codes: 0 all pass, or MLPerf requires none; 3 one fails or cannot be run; 1 an error.
    """
    from metrics.mlperf.compliance.comply import comply as run_tests
    from metrics.mlperf.compliance.results import line, print_table

    results = run_tests(run_folder, test or [], output)
    if results is None:
        return
    print_table(results)
    print_line(line(results))
    if results.verdict not in ("PASS", "NONE ASKED"):
        raise typer.Exit(EXIT_INVALID)
