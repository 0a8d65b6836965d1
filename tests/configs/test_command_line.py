"""The command line: one file a command, help without heavy imports or leaked types, completion, one JSON line at the end."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from configs.command_line import EXIT_NO_VERDICT
from suite import app
from tests.conftest import ROOT, suite_env

COMMANDS = sorted(get_command(app).commands)  # type: ignore[attr-defined]
FILES = [p for folder in ("pipelines", "metrics") for p in sorted((ROOT / folder / "commands").glob("*.py")) if p.name != "__init__.py"]


def _help(*words: str) -> str:
    return CliRunner().invoke(app, [*words, "--help"], prog_name="suite.py").output


def test_a_command_is_found_because_its_file_is_there() -> None:
    assert sorted(path.stem.replace("_", "-") for path in FILES) == COMMANDS


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_command_file_holds_options_and_imports_what_is_heavy_when_it_runs(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 60
    modules = [n.module for n in ast.parse(text).body if isinstance(n, ast.ImportFrom)]
    assert set(modules) <= {"__future__", "collections.abc", "pathlib", "typing", "configs.command_line", "configs.output"}, modules


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_names_values_and_leaks_no_types(command: str | None) -> None:
    text = _help(*[command] if command else [])
    assert "Usage: suite.py" in text
    assert not re.search(r"<(list|str|int|float|path|\w+\[)", text), text


def test_help_shows_defaults_and_one_example_a_line() -> None:
    assert re.search(r"\[default:\s+outputs/audit.html\]", _help("audit"))
    assert re.search(r"\[default:\s+\(RUN.zip\)\]", _help("bundle"))
    text = _help()
    assert "\n    suite.py --workload t2v\n" in text
    assert "--install-completion" in text


def test_the_version_is_the_packages() -> None:
    from importlib.metadata import version

    assert CliRunner().invoke(app, ["--version"]).output == f"triptych {version('triptych')}\n"


def test_a_shell_completes_workloads_presets_and_plugins() -> None:
    def complete(*words: str) -> list[str]:
        context = click.Context(get_command(app))  # type: ignore[arg-type]
        command, option = (context.command, words[0]) if len(words) == 2 else (context.command.get_command(context, "list"), "name")  # type: ignore[attr-defined]
        parameter = next(p for p in command.params if option in (p.name, *p.opts))
        return [item.value for item in parameter.shell_complete(context, words[-1])]

    assert complete("--workload", "t") == ["t2v"]
    assert complete("--config", "t2v/embedded") == ["t2v/embedded", "t2v/embedded-two-steps"]
    assert complete("toy_l") == ["toy_llm"]


def test_wrong_usage_of_an_audit_is_no_verdict() -> None:
    assert CliRunner().invoke(app, ["audit", "only-one"]).exit_code == EXIT_NO_VERDICT
    missing = CliRunner().invoke(app, ["audit", "a", "b", "--plugin", "none.py"])
    assert missing.exit_code == EXIT_NO_VERDICT
    assert "plugin file 'none.py' does not exist" in missing.stderr


def test_help_imports_nothing_heavy() -> None:
    heavy = ("torch", "diffusers", "transformers", "numpy", "pydantic", "scipy", "matplotlib", "zmq", "jinja2")
    code = (
        "import sys, suite; from typer.testing import CliRunner; CliRunner().invoke(suite.app, ['--help']); "
        f"print('typer' in sys.modules, [m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=suite_env(), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True []"
