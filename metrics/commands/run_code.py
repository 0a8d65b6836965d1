from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from configs.command_line import app
from configs.output import say


@app.command("run-code")
def run_code(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder with answers to LiveCodeBench.")],
    tests: Annotated[Path | None, typer.Option(metavar="DIR", help="LiveCodeBench's own files, for runs that carry no tests.")] = None,
    timeout: Annotated[int, typer.Option(min=1, metavar="SECONDS", help="The limit for one test of one program.")] = 60,
    workers: Annotated[int | None, typer.Option(min=1, metavar="N", help="Programs at the same time.", show_default="one a CPU")] = None,
    weak_sandbox: Annotated[
        bool, typer.Option("--weak-sandbox", help="Continue where this machine does not provide all of the sandbox.")
    ] = False,
) -> None:
    """Run the programs that a model wrote against their tests, in a sandbox, and write the report again with their score.

    No other command runs them. They get no network, no file to write and none to read but Python's, and no more time than --timeout.
    """
    from metrics.mlperf.accuracy.code_results import run_code as run_all
    from metrics.mlperf.accuracy.sandbox.run_tests import Limits, still_open
    from metrics.report.finish import finish, write_report
    from metrics.report.load_run import load_run

    results = run_all(load_run(run_folder), tests, Limits(seconds=timeout), workers, weak_sandbox)
    untested = f", {results.untested} have no tests in the files" if results.untested else ""
    say(f"{results.passed} programs pass, {results.failed} fail{untested}; sandbox: {', '.join(results.isolation) or 'none'}")
    say(f"open to the programs: {', '.join([*still_open(results.isolation), 'the kernel, which they share'])}")
    finish(write_report(run_folder))
