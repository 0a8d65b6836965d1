"""suite.py audit: its exit code is the verdict, and errors have an exit code of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from configs import registry
from suite import app
from tests.metrics.audit.conftest import answers, write_answers
from workloads.run_folder.files import write_json
from workloads.run_folder.manifest import file_hashes


def command(*arguments: str) -> tuple[int, dict[str, Any]]:
    done = CliRunner().invoke(app, ["audit", *arguments])
    return done.exit_code, json.loads(done.stdout.splitlines()[-1])


def test_a_faster_run_that_is_as_good_passes_with_exit_code_0(tmp_path: Path) -> None:
    one, two = write_answers(tmp_path / "one", answers(1.0)), write_answers(tmp_path / "two", answers(0.5))
    code, line = command(str(one), str(two), "--margin", "5%", "--metric", "exact_match", "--output", str(tmp_path / "audit.html"))
    assert (code, line["verdict"]) == (0, "PASS")
    assert line["found"].startswith("The candidate is 2.00x as fast (95 % interval ")
    assert line["found"].count("95 %") == 1
    data = json.loads((tmp_path / "audit.json").read_text(encoding="utf-8"))
    assert data["speed"]["paired"]["value"] == pytest.approx(2.0)
    assert data["closeness"]["equal_share"] == 1.0
    assert data["worst"] == []
    assert "PASS" in (tmp_path / "audit.html").read_text(encoding="utf-8")


def test_a_run_that_lost_more_than_the_margin_fails_with_exit_code_1_and_shows_its_worst(tmp_path: Path) -> None:
    one, two = write_answers(tmp_path / "one", answers(1.0)), write_answers(tmp_path / "two", answers(0.5, wrong=range(20)))
    code, line = command(str(one), str(two), "--margin", "5%", "--metric", "exact_match", "--output", str(tmp_path / "audit.html"))
    assert (code, line["verdict"]) == (1, "FAIL")
    data = json.loads((tmp_path / "audit.json").read_text(encoding="utf-8"))
    assert (data["metrics"][0]["losses"], data["metrics"][0]["gains"], len(data["worst"])) == (20, 0, 12)
    page = (tmp_path / "audit.html").read_text(encoding="utf-8")
    assert "wrong 0" in page
    assert "question 0" in page


def test_too_few_prompts_for_the_margin_end_with_exit_code_2_and_the_number_of_further_ones(tmp_path: Path) -> None:
    one, two = write_answers(tmp_path / "one", answers(1.0)), write_answers(tmp_path / "two", answers(1.0, wrong=[7]))
    code, line = command(str(one), str(two), "--margin", "5%", "--metric", "exact_match", "--output", str(tmp_path / "audit.html"))
    assert (code, line["verdict"]) == (2, "INCONCLUSIVE")
    more = json.loads((tmp_path / "audit.json").read_text(encoding="utf-8"))["metrics"][0]["further_samples"]
    assert more > 0
    assert f"about {more:,} more prompts are needed" in line["found"]


def test_an_error_has_exit_code_3(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["audit", str(write_answers(tmp_path / "one", answers(1.0))), str(tmp_path / "absent")])
    assert (done.exit_code, done.stdout) == (3, "")
    assert "absent" in done.stderr


LENGTHS = """
from dataclasses import dataclass
from configs.registry import register
from metrics.base import SampleMetric

@register("plugin_length")
@dataclass(frozen=True)
class PluginLength(SampleMetric):
    name = "plugin_length"

    def score(self, run, sample, record):
        return {"plugin_length": float(len(record.text))}
"""


def test_wrong_usage_has_exit_code_3_and_a_plugin_metric_is_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1 and 2 would mean FAIL and INCONCLUSIVE."""
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    (tmp_path / "lengths.py").write_text(LENGTHS, encoding="utf-8")
    one, two = write_answers(tmp_path / "one", answers(1.0)), write_answers(tmp_path / "two", answers(0.5))
    for folder in (one, two):  # as if the run had used a metric of a plugin file
        config = (folder / "config.yaml").read_text(encoding="utf-8").replace("metrics: null", "metrics: [exact_match, plugin_length]")
        (folder / "config.yaml").write_text(config, encoding="utf-8")
        (folder / "report.json").unlink()
        sealed_by_hand(folder)
    runs, page = [str(one), str(two)], ["--margin", "5%", "--output", str(tmp_path / "audit.html")]
    for arguments, message in (
        ((*runs, *page), "unknown metric 'plugin_length'"),
        ((*runs, "--plugin", str(tmp_path / "absent.py")), "plugin file"),
        ((*runs, "--margni", "5%"), "--margni"),
        ((str(one),), "CANDIDATE"),
        ((*runs, "--margin", "much"), "got 'much'"),
        ((*runs, "--output", str(tmp_path / "audit.json")), "must end in .html"),
    ):
        done = CliRunner().invoke(app, ["audit", *arguments])
        assert (done.exit_code, done.stdout) == (3, ""), arguments
        assert message.lower() in done.stderr.lower()
    code, line = command(*runs, *page, "--plugin", str(tmp_path / "lengths.py"))
    assert (code, line["verdict"]) == (0, "PASS")


def test_a_bug_has_exit_code_3_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("metrics.audit.audit.audit", broken)
    done = CliRunner().invoke(app, ["audit", "one", "two"])
    assert done.exit_code == 3
    assert "ZeroDivisionError: a bug" in done.stderr


def sealed_by_hand(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    write_json(folder / "manifest.json", manifest | {"files": file_hashes(folder)})
