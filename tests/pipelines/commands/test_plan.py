"""`suite.py plan`: its exit code and its last line."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner


@pytest.mark.parametrize(("changes", "code"), [([], 0), (["--batch", "9999"], 3)])
def test_the_exit_code_is_whether_it_fits_and_the_last_line_is_json(changes: list[str], code: int) -> None:
    import suite

    done = CliRunner().invoke(suite.app, ["plan", "--preset", "llm/llama3.1-8b", "--device", "mi355x", *changes])
    assert done.exit_code == code, done.output
    line = json.loads(done.stdout.strip().splitlines()[-1])
    assert line["fits"] is (code == 0)
    assert line["chosen"]["over_bytes"] == max(0, line["chosen"]["total_bytes"] - line["chosen"]["usable_bytes"])
    assert ("DOES NOT FIT" in done.stderr) is (code == 3)
    assert ("would fit: bf16 on one device with --batch" in done.stderr) is (code == 3)
