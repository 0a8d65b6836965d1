"""Bundles that an older version of the suite packed: scored again, they give the values that they came with, however sentences are worded.

bundles/: one run of each workload by the toy pipelines, and one that misses its limits, packed before modules were sorted into folders.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from configs.errors import ConfigError
from metrics.audit.audit import audit
from metrics.compare.compare import compare
from metrics.report.recompute import recompute
from metrics.report.report import build_report
from metrics.report.report_diff import print_comparison, report_bytes
from workloads.run_folder.bundle import unpack
from workloads.run_folder.files import write_json

FOLDER = Path(__file__).with_name("bundles")
BUNDLES = sorted(path.stem for path in FOLDER.glob("*.zip"))


def unpacked(name: str, folder: Path, edit: Callable[[dict[str, Any]], object] | None = None) -> Path:
    """The run of bundles/`name`.zip, its report.json changed by `edit`."""
    run = unpack(FOLDER / f"{name}.zip", folder / name)
    if edit is not None:
        data = json.loads((run / "report.json").read_text(encoding="utf-8"))
        edit(data)
        write_json(run / "report.json", data)
    return run


def reword(data: dict[str, Any]) -> None:
    """Other words in every sentence of a report."""
    for part in (data["figures"].values(), data["truth"], data["gates"]):
        for entry in part:
            entry.update({key: "in other words" for key in ("note", "told", "why") if key in entry})
    data.update(notice="in other words", notes=["in other words"], reasons=["in", "other", "words"] if data["reasons"] else [])


EDITS: dict[str, Callable[[dict[str, Any]], object]] = {
    r"figures\.exact_match": lambda d: d["figures"]["exact_match"].update(value=0.5),
    r"samples.*\.scores\.exact_match": lambda d: d["samples"][0]["scores"].update(exact_match=0.5),
    r"verdict": lambda d: d.update(verdict="INVALID"),
    r"gates": lambda d: d["gates"].append({"of": "the run", "figure": "exact_match", "value": 1.0, "target": 0.0, "holds": True}),
}


@pytest.mark.parametrize("name", BUNDLES)
def test_an_older_bundle_gives_the_same_report(name: str, tmp_path: Path) -> None:
    run = unpacked(name, tmp_path)
    before: dict[str, Any] = json.loads((run / "report.json").read_text(encoding="utf-8"))
    content = report_bytes(run)
    after = build_report(run).data
    assert after["verdict"] == before["verdict"]
    assert after["figures"].keys() == before["figures"].keys()
    for figure in before["figures"]:
        for key in ("value", "unit", "better", "n"):
            one, other = after["figures"][figure].get(key), before["figures"][figure].get(key)
            assert one == pytest.approx(other, rel=1e-6), (figure, key)
        one, other = after["figures"][figure]["ci95"], before["figures"][figure]["ci95"]
        if other is not None:  # rates had none
            ends = other if figure == "first_frame_psnr" else [max(other[0], 0.0), min(other[1], 1.0)]  # these of shares went beyond 1
            assert one == pytest.approx(ends, rel=1e-6), figure
    assert after.keys() == before.keys()
    assert print_comparison(run, content) is True


def test_a_report_with_other_sentences_is_the_same_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = unpacked("llm-interactive-invalid", tmp_path, reword)
    content = report_bytes(run)
    build_report(run)
    assert print_comparison(run, content) is True
    assert "sentences are worded differently" in capsys.readouterr().err


def test_a_report_of_a_version_with_fewer_checks_is_the_same_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def forget(data: dict[str, Any]) -> None:
        data["truth"] = [check for check in data["truth"] if check["name"] != "steps"]
        del data["canaries"]["empty"]

    run = unpacked("llm", tmp_path, forget)
    content = report_bytes(run)
    build_report(run)
    assert print_comparison(run, content) is True
    assert "there are further checks: steps" in capsys.readouterr().err


@pytest.mark.parametrize("place", EDITS)
def test_a_changed_value_makes_another_report(tmp_path: Path, place: str) -> None:
    run = unpacked("llm", tmp_path, EDITS[place])
    with pytest.raises(ConfigError, match=rf"report\.json does not match the run's records and media: {place}"):
        recompute(run)
    content = report_bytes(run)
    build_report(run)
    assert print_comparison(run, content) is False


@pytest.mark.parametrize("name", ["llm-interactive-invalid", "vlm"])
def test_runs_whose_reports_have_other_sentences_are_compared_and_audited(name: str, tmp_path: Path) -> None:
    one, two = (unpacked(name, tmp_path / side, reword) for side in ("one", "two"))
    assert recompute(one).data["reasons"] != ["in", "other", "words"]
    assert len(compare([one, two], allow_invalid=True)["groups"]) == 1
    assert audit(one, two, margin="5%", allow_invalid=True)["metrics"]
