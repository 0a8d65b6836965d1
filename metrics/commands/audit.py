from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from configs.command_line import AllowInvalidOption, MetricOption, PluginOption, VerdictCommand, app
from configs.output import print_line


@app.command(cls=VerdictCommand)
def audit(
    reference: Annotated[Path, typer.Argument(metavar="REFERENCE", help="The run folder that is trusted.")],
    candidate: Annotated[Path, typer.Argument(metavar="CANDIDATE", help="The run folder of the faster variant: same prompts, same seed.")],
    margin: Annotated[
        str | None,
        typer.Option(
            metavar="LOSS",
            help="Loss of quality that is tolerated: 1% of each metric's mean, or an amount such as 0.01.",
            show_default="the gates' of the reference's MLPerf benchmark, such as 0.1% of llama2-70b-99.9; else 1%",
        ),
    ] = None,
    metric: MetricOption = None,
    allow_invalid: AllowInvalidOption = False,
    plugin: PluginOption = None,
    output: Annotated[Path, typer.Option(metavar="FILE", help="The page to write; the same as JSON goes beside it.")] = Path(
        "outputs/audit.html"
    ),
) -> None:
    """Is a faster run still as good? Two runs, prompt by prompt.

    Exit codes: 0 PASS, 1 FAIL, 2 INCONCLUSIVE, 3 no verdict: runs that cannot be audited, wrong usage, an error.
    """
    from configs.errors import ConfigError
    from metrics.audit.audit import audit as compare_runs
    from metrics.audit.html import print_audit, sentence, write_audit

    if output.suffix != ".html":
        raise ConfigError(f"--output must end in .html, got {str(output)!r}; the JSON goes beside it.")
    data = compare_runs(reference, candidate, margin, metric or [], allow_invalid)
    written = write_audit(data, output)
    print_audit(data)
    line = {"audit": str(written.resolve()), "verdict": data["verdict"], "found": sentence(data), "left_out": data["left_out"]}
    print_line(line)
    raise typer.Exit({"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 2}[data["verdict"]])
