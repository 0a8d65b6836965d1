"""What follows a run: its report is written, a table and one JSON line are printed, and the verdict becomes the exit code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from configs.command_line import EXIT_INVALID
from configs.errors import RunError
from configs.output import print_line, say

if TYPE_CHECKING:
    from metrics.report.report import Report


def write_report(folder: Path, brief: bool = False) -> Report:
    """Write report.json and report.html. brief: verdict and reasons only, as for an aborted run."""
    from metrics.report.html.page import write_html
    from metrics.report.report import build_report

    built = build_report(folder, brief)
    write_html(built)
    return built


def seal_and_report(folder: Path) -> Report:
    """Hash the files of a run that has ended, and write its report. Raises RunError where the folder takes no more files."""
    from pipelines.launcher.provenance import seal

    try:
        seal(folder)
        return write_report(folder)
    except OSError as error:
        raise RunError(
            f"the report cannot be written in {folder}: {error.strerror or error}; mend that, and run: suite.py report {folder}"
        ) from None


def report_on_bundle(bundle: Path, output: Path | None) -> None:
    """Unpack a bundle, write its report again, and compare it with the one that it came with."""
    from metrics.report.report_diff import print_comparison, report_bytes
    from workloads.run_folder.bundle import unpack

    folder = unpack(bundle, output)
    before = report_bytes(folder)
    built = write_report(folder)
    finish(built, same_report=print_comparison(folder, before))


def report_briefly(folder: Path) -> None:
    """Write the verdict and reasons of an aborted run. The message to the user comes from `suite.main`."""
    from pipelines.launcher.provenance import seal

    try:
        seal(folder)
        _print_last_line(write_report(folder, brief=True))
    except OSError as error:
        say(f"no report in {folder}: {error.strerror}")


def finish(built: Report, **more: bool | None) -> None:
    """Print a short table for people on stderr and one JSON line for programs on stdout. Raises typer.Exit(3) where the run is INVALID."""
    from metrics.report.terminal import print_summary

    print_summary(built)
    _print_last_line(built, **more)
    if not built.valid:
        raise typer.Exit(EXIT_INVALID)


def _print_last_line(built: Report, **more: bool | None) -> None:
    from metrics.report.report import headline

    data = built.data
    line = {"run": str(built.run.folder.resolve()), "verdict": data["verdict"], "rules": data["rules"], "verified_by_mlcommons": False}
    print_line({**line, "headline": headline(built), **more})
