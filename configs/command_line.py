"""The command line's application, and what its commands share: options, exit codes, completion of names."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup

from configs.errors import SuiteError
from configs.output import print_traceback, printable, say


class _Commands(TyperGroup):
    """Shows an argument by its name alone: typer 0.29 puts the Python type behind it, such as `RUN <list[Path]>`.

    Messages of wrong usage, which repeat what was typed or what a shell found for `*`, are printable.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for command in self.commands.values():
            for parameter in command.params:
                if isinstance(parameter, TyperArgument):
                    parameter.display_type_rich = lambda ctx: None  # type: ignore[method-assign]

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _printable_usage():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        with _printable_usage():
            return super().invoke(ctx)


@contextlib.contextmanager
def _printable_usage() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # see VerdictCommand
        if getattr(error, "exit_code", None) in (_EXIT_USAGE, EXIT_NO_VERDICT) and isinstance(getattr(error, "message", None), str):
            error.message = printable(error.message)  # type: ignore[attr-defined]
        raise


app = typer.Typer(cls=_Commands, pretty_exceptions_enable=False, rich_markup_mode=None, no_args_is_help=False)

EXIT_INVALID = 3  # a run that is INVALID, a submission that is refused, a plan that does not fit
EXIT_NO_VERDICT = 3  # of commands whose exit codes 0, 1 and 2 are verdicts
_EXIT_USAGE = 2


class VerdictCommand(TyperCommand):
    """A command whose exit codes 0, 1 and 2 are verdicts. Whatever reaches none exits with 3: refused runs, wrong usage, a bug."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().make_context(*args, **kwargs)
        except SuiteError as error:
            _no_verdict(error)
        except Exception as error:  # typer's and click's classes for wrong usage share no name over their versions
            if getattr(error, "exit_code", None) == _EXIT_USAGE:
                error.exit_code = EXIT_NO_VERDICT  # type: ignore[attr-defined]
            raise

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:
            _no_verdict(error)


def _no_verdict(error: Exception) -> NoReturn:
    if isinstance(error, SuiteError):
        say(str(error))
    else:
        print_traceback(type(error), error, error.__traceback__)
    raise typer.Exit(EXIT_NO_VERDICT)


def _load_plugins(context: typer.Context, paths: list[str] | None) -> list[str] | None:
    if not context.resilient_parsing:  # a shell that completes a word runs nothing of a plugin
        from configs.registry import load_plugin_file

        for path in paths or []:
            load_plugin_file(path)
    return paths


def _complete_workload(incomplete: str) -> list[str]:
    from configs.registry import names

    return [name for name in sorted(names("workloads")) if name.startswith(incomplete)]


def complete_name(incomplete: str) -> list[str]:
    """Plugins and presets whose name begins so, for a shell."""
    from configs.registry import KINDS, names

    plugins = {name for kind in KINDS for name in names(kind)}
    return [*(name for name in sorted(plugins) if name.startswith(incomplete)), *_complete_preset(incomplete)]


def _complete_preset(incomplete: str) -> list[str]:
    """Presets whose name begins so, for a shell."""
    from configs.load_config import presets

    return [name for name in presets() if name.startswith(incomplete)]


RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]
PluginOption = Annotated[
    list[str] | None,
    typer.Option("--plugin", metavar="FILE", callback=_load_plugins, help="A Python file that registers a plugin; repeatable."),
]
WorkloadOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="llm, vlm, t2v, i2v, or a plugin's name.", autocompletion=_complete_workload),
]
ConfigOption = Annotated[
    str | None,
    typer.Option(
        metavar="PRESET",
        help="A preset such as t2v/embedded (suite.py list names all), or a YAML file.",
        show_default="the workload's embedded model",
        autocompletion=_complete_preset,
    ),
]
PresetOption = Annotated[
    str,
    typer.Option(
        "--preset",
        "--config",
        metavar="PRESET",
        help="A preset such as llm/llama2-70b, or a YAML file.",
        autocompletion=_complete_preset,
    ),
]
VariantOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="A variant of the preset, such as shrunk: random weights, small enough for a CPU."),
]
ScenarioOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="offline, server, interactive, single_stream or multi_stream.", show_default="the preset's"),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one setting, such as load.min_duration_s=60; repeatable."),
]
AllowInvalidOption = Annotated[bool, typer.Option("--allow-invalid", help="Take INVALID runs too; the result is marked.")]
MetricOption = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Use this metric; repeatable.", show_default="all that score answers"),
]
