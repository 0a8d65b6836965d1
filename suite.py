"""Triptych: throughput, latency and quality of generative AI inference, in one run.

    python suite.py --workload t2v                one process
    accelerate launch suite.py --workload t2v     the same, by Accelerate

`run` is here. Every other command is a file of pipelines/commands (what needs no run) or metrics/commands (what works on a finished run).
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import Annotated

import typer

import metrics.commands
import pipelines.commands
from configs.command_line import ConfigOption, PluginOption, ScenarioOption, SetOption, VariantOption, WorkloadOption, app
from configs.output import echo, handle_errors_and_warnings, say

__all__ = ["app", "main"]

for _package in (pipelines.commands, metrics.commands):
    for _module in pkgutil.iter_modules(_package.__path__):
        importlib.import_module(f"{_package.__name__}.{_module.name}")

EPILOG = """\b
Examples:
  suite.py --workload t2v
  suite.py --workload t2v --scenario single_stream --set pipeline.num_inference_steps=4
  suite.py --workload llm --set pipeline.model=/models/Llama-3.1-8B-Instruct --set dataset.prompts=prompts.jsonl
  accelerate launch --config_file configs/accelerate/cpu_2.yaml suite.py --workload t2v
  suite.py COMMAND --help

\b
Exit codes: 0 VALID, 3 INVALID, 1 an error, 2 wrong usage, 130 interrupted.
Of audit: 0 PASS, 1 FAIL, 2 INCONCLUSIVE, 3 no verdict."""


def _print_version(requested: bool) -> None:
    if requested:
        from importlib.metadata import version

        echo(f"triptych {version('triptych')}")
        raise typer.Exit


@app.callback(invoke_without_command=True, epilog=EPILOG)
def run(
    context: typer.Context,
    workload: WorkloadOption = None,
    config: ConfigOption = None,
    scenario: ScenarioOption = None,
    mode: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="performance, accuracy (every sample once, untimed), or both.", show_default="the preset's"),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Decides every answer and LoadGen's order.", show_default="the preset's")
    ] = None,
    output: Annotated[
        str | None, typer.Option(metavar="DIR", help="The run folder to write.", show_default="outputs/WORKLOAD-TIME")
    ] = None,
    variant: VariantOption = None,
    set_: SetOption = None,
    find_max_rate: Annotated[bool, typer.Option("--find-max-rate", help="Server scenarios: find the highest rate that is VALID.")] = False,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Finish this accuracy run: answer only what has no answer yet.")
    ] = None,
    plugin: PluginOption = None,
    version: Annotated[bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Show the version and exit.")] = False,
) -> None:
    """Run generative AI workloads and report throughput, latency and quality."""
    if context.invoked_subcommand is not None:
        return
    if workload is None and config is None and resume is None:
        echo(context.get_help())
        raise typer.Exit(2)

    from configs.errors import ConfigError, GivenUpError
    from configs.load_config import load_config
    from metrics.report.finish import finish, report_briefly, seal_and_report
    from pipelines.distributed.ranks import is_main_process
    from pipelines.launcher.default_engine import with_default_engine
    from pipelines.launcher.launch import launch

    if resume is not None:
        from pipelines.launcher.resume import resumed_config

        others = ("workload", "config", "scenario", "mode", "seed", "output", "variant", "set_", "find_max_rate")
        if given := [f"--{name.rstrip('_').replace('_', '-')}" for name in others if context.params[name]]:
            raise ConfigError(f"--resume cannot be combined with {', '.join(given)}: all settings come from {resume}.")
        settings = resumed_config(resume)
    else:
        settings = load_config(workload, config, set_ or [], scenario=scenario, mode=mode, seed=seed, variant=variant)
        if config is None:
            settings = with_default_engine(settings, set_ or [])
    try:
        folder = launch(settings, output, find_max_rate, resume)
    except GivenUpError as error:
        if is_main_process():
            report_briefly(error.folder)
        raise
    if is_main_process():
        finish(seal_and_report(folder))


def main() -> None:
    """Entry point. A user's mistake ends in one message, without a traceback."""
    from configs.errors import SuiteError

    handle_errors_and_warnings()
    try:
        app()
    except (SuiteError, KeyboardInterrupt) as error:
        from pipelines.distributed.ranks import is_main_process

        interrupted = isinstance(error, KeyboardInterrupt) or str(error).startswith("interrupted")
        if is_main_process():
            say(str(error) or "interrupted")
        raise SystemExit(130 if interrupted else 1) from None
    finally:
        handle_errors_and_warnings()  # again: typer puts a hook of its own there


if __name__ == "__main__":
    main()
