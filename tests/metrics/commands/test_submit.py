"""suite.py submit: its last line and its exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import suite as command
from configs.command_line import EXIT_INVALID
from tests.metrics.mlperf.submission.conftest import RESULTS, all_valid, make_runs, make_submission
from workloads.mlperf.notices import UNVERIFIED

__all__ = ["all_valid"]  # used by itself in every test here


def test_the_command_ends_with_a_line_of_json_and_its_own_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_submission(make_runs(tmp_path), tmp_path)
    assert command.app(["submit", "--check", str(root)], standalone_mode=False) is None
    (root / RESULTS / "Server/user.conf").unlink()
    assert command.app(["submit", "--check", str(root)], standalone_mode=False) == EXIT_INVALID
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["verdict"] for line in lines] == ["OK", "REFUSED"]
    assert lines[1]["refusals"] == [{"file": f"{RESULTS}/Server/user.conf", "reason": "missing or empty"}]


def test_the_command_says_that_the_result_is_not_verified(tmp_path: Path) -> None:
    root = make_submission(make_runs(tmp_path), tmp_path)
    done = CliRunner().invoke(command.app, ["submit", "--check", str(root)])
    assert done.stderr.splitlines()[-1] == UNVERIFIED
    line = json.loads(done.stdout.splitlines()[-1])
    assert (line["verdict"], line["verified_by_mlcommons"], line["notice"]) == ("OK", False, UNVERIFIED)
