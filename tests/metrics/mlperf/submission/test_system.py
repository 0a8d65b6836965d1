"""The description of the system: measured fields, and those that the submitter adds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from configs.errors import ConfigError
from metrics.mlperf.submission.check import check
from metrics.mlperf.submission.write import manifest_hash, write_submission
from tests.metrics.mlperf.submission.conftest import (
    SYSTEM,
    SYSTEM_FILE,
    reasons,
    settle,
)


def test_the_systems_fields_must_not_be_empty(submit: Callable[..., Any]) -> None:
    root, _ = submit()
    path = root / "closed/Example/systems/8xMI355X.json"
    fields = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(fields | {"cooling": "", "submitter": "Other"}), encoding="utf-8")
    problems = reasons(check(root), "closed/Example/systems/8xMI355X.json")
    assert "empty fields: cooling" in problems
    assert "submitter is 'Other'" in problems


def change_system(run: Path, **changes: Any) -> None:
    """Change the run's system.json and seal the run again."""
    (run / "system.json").write_text(json.dumps(SYSTEM | changes), encoding="utf-8")
    settle(run)


@pytest.mark.parametrize(
    ("field", "value", "measured"),
    [
        ("number_of_nodes", "12", "1"),
        ("accelerator_model_name", "MI300X", "MI355X"),
        ("framework", "vLLM 0.23", "torch 2.13.0"),
        ("submitter", "Other", "Example"),
    ],
)
def test_measured_fields_cannot_be_typed_in(field: str, value: str, measured: str, submit: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=rf"--describe has '{value}' for {field}, but .* '{measured}'"):
        submit(**{field: value})
    assert submit(**{field: measured})[1] == []


def test_runs_on_different_hardware_are_refused(submit: Callable[..., Any], runs: list[Path], tmp_path: Path) -> None:
    root, _ = submit()
    change_system(runs[1], accelerators=[{"name": "MI325X", "memory_bytes": 256 * 2**30}] * 8)
    with pytest.raises(
        ConfigError, match=r"server' was made on other hardware than .*offline': accelerator_model_name is 'MI325X' and 'MI3"
    ):
        write_submission(runs, "Example", "closed", "v6.1", None, None, tmp_path / "other")
    sources = json.loads((root / "runs.json").read_text(encoding="utf-8"))
    for tests in sources["results"].values():
        for one in tests.values():
            one["files"] = manifest_hash(root / one["run"])
    (root / "runs.json").write_text(json.dumps(sources), encoding="utf-8")
    assert "run 'server' was made on other hardware than 'offline'" in reasons(check(root), SYSTEM_FILE)


def test_a_description_that_was_edited_is_compared_with_the_runs(submit: Callable[..., Any]) -> None:
    root, _ = submit()
    fields = json.loads((root / SYSTEM_FILE).read_text(encoding="utf-8"))
    changed = {"number_of_nodes": "12", "framework": "vLLM"}
    (root / SYSTEM_FILE).write_text(json.dumps(fields | changed), encoding="utf-8")
    assert [r.reason for r in check(root)] == [
        "number_of_nodes is '12', but the runs measured '1'",
        "framework is 'vLLM', but the runs measured 'torch 2.13.0'",
    ]


def test_all_versions_of_software_that_differs_between_runs_are_listed(submit: Callable[..., Any], runs: list[Path]) -> None:
    change_system(runs[1], packages={"torch": "2.12.0"})
    root, refusals = submit()
    assert refusals == []
    assert json.loads((root / SYSTEM_FILE).read_text(encoding="utf-8"))["framework"] == "torch 2.13.0; torch 2.12.0"


def test_a_run_without_a_description_of_its_machine_is_refused(submit: Callable[..., Any], runs: list[Path]) -> None:
    (runs[1] / "system.json").unlink()
    with pytest.raises(ConfigError, match=r"server/system\.json cannot be read"):
        submit()
    (runs[1] / "system.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"server/system\.json is damaged: it has no 'accelerators'"):
        submit()
