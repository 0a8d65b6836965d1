from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from configs.command_line import EXIT_INVALID, PluginOption, app
from configs.output import echo, print_line


@app.command()
def submit(
    runs: Annotated[list[Path] | None, typer.Argument(metavar="RUN", help="Run folders of MLPerf benchmarks, of one system.")] = None,
    submitter: Annotated[str | None, typer.Option(metavar="NAME", help="As MLCommons knows it.")] = None,
    division: Annotated[str | None, typer.Option(metavar="NAME", help="open or closed.")] = None,
    round_: Annotated[
        str | None, typer.Option("--round", metavar="ROUND", help="v6.0 or v6.1.", show_default="the installed LoadGen's")
    ] = None,
    system: Annotated[str | None, typer.Option(metavar="NAME", help="The system's name.", show_default="made of its devices")] = None,
    describe: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON: fields of the system's description that cannot be detected.")
    ] = None,
    compliance: Annotated[
        list[Path] | None, typer.Option(metavar="DIR", help="A comply's --output; repeatable.", show_default="RUN-compliance")
    ] = None,
    output: Annotated[Path, typer.Option(metavar="DIR", help="The folder to write.")] = Path("outputs/submission"),
    check: Annotated[Path | None, typer.Option(metavar="DIR", help="Check this submission, and write none.")] = None,
    plugin: PluginOption = None,
) -> None:
    """Write an MLPerf submission and check it, more strictly than the official checker; every refusal names file and reason.

    Exit codes: 0 nothing is refused, 3 refused (the folder is written all the same), 1 an error.
    """
    from configs.errors import ConfigError
    from metrics.mlperf.submission.check import check as check_submission
    from metrics.mlperf.submission.check import print_refusals
    from metrics.mlperf.submission.write import write_submission
    from workloads.mlperf.notices import UNVERIFIED

    if check is not None:
        if runs or submitter or division:
            raise ConfigError("--check reads an existing submission; it cannot be combined with runs, --submitter or --division.")
        folder = check
    elif division not in (None, "open", "closed"):
        raise ConfigError(f"--division must be open or closed, got {division!r}.")
    elif not runs or not submitter or division is None:
        raise ConfigError("a submission needs --submitter NAME, --division open or closed, and run folders; or give --check DIR.")
    else:
        folder = write_submission(runs, submitter, division, round_, system, describe, output, compliance or [])
    refusals = check_submission(folder, round_)
    print_refusals(folder, refusals, lambda text: echo(text, to_stderr=True))
    echo(UNVERIFIED, to_stderr=True)
    line = {"submission": str(folder.resolve()), "verdict": "REFUSED" if refusals else "OK", "verified_by_mlcommons": False}
    print_line({**line, "notice": UNVERIFIED, "refusals": [r._asdict() for r in refusals]})
    if refusals:
        raise typer.Exit(EXIT_INVALID)
