"""A command whose exit codes are verdicts, which nothing else may end with."""

from __future__ import annotations

import sys
import traceback
from typing import Any

import typer
from typer.core import TyperCommand

from configs.errors import SuiteError

NO_VERDICT = 3
_WRONG_USAGE = 2


class VerdictCommand(TyperCommand):
    """0, 1 and 2 are verdicts; whatever comes to none ends with NO_VERDICT: refused runs and plugins, a mistyped option, a bug of ours."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().make_context(*args, **kwargs)
        except Exception as error:  # typer's and click's classes for wrong usage have no name in common over their versions
            if getattr(error, "exit_code", None) == _WRONG_USAGE:
                error.exit_code = NO_VERDICT  # type: ignore[attr-defined]
            raise

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort):
            raise
        except SuiteError as error:
            print(f"suite: {error}", file=sys.stderr, flush=True)
        except Exception:
            traceback.print_exc()
        raise typer.Exit(NO_VERDICT)
