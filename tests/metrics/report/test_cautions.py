"""What stands on top of the report of a VALID run that may be worthless."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from metrics.report.html.page import write_html
from metrics.report.report import build_report
from metrics.report.terminal import print_summary
from tests.conftest import record
from tests.metrics.conftest import write_run
from workloads.records import Sample

SAMPLES = [Sample(i, f"prompt {i}", {"answer": "yes"}) for i in range(4)]


@pytest.mark.parametrize(("right", "cautious"), [(0, True), (1, False)])
def test_quality_at_its_floor_is_said_on_top_and_a_gate_can_require_more(
    tmp_path: Path, right: int, cautious: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["yes" if i < right else f"no {i}" for i in range(4)]
    records = [record(i, text=text, num_units=1, finish_reason="stop") for i, text in enumerate(texts)]
    report = build_report(write_run(tmp_path / "run", SAMPLES, records, metrics=["exact_match"]))
    print_summary(report)
    sentence = "exact_match is 0 over 4 answers, as low as it can be: the answers may be worthless."
    assert any(caution.startswith(sentence) for caution in report.data.get("cautions", [])) is cautious
    page = write_html(report).read_text(encoding="utf-8")
    assert (f"<b>Caution:</b> {sentence}" in page) is cautious
    assert (sentence in " ".join(capsys.readouterr().err.split())) is cautious
    gated = build_report(write_run(tmp_path / "gated", SAMPLES, records, metrics=["exact_match"], gate={"exact_match": 0.1}))
    assert any("exact_match is 0" in reason for reason in gated.data["reasons"]) is cautious


def test_answers_that_are_declared_not_to_repeat_are_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", SAMPLES, [record(i, text="yes", num_units=1) for i in range(4)], metrics=["exact_match"])
    outcome = json.loads((folder / "outcome.json").read_text(encoding="utf-8"))
    outcome["performance"]["ranks"][0]["repeats"] = "never"
    (folder / "outcome.json").write_text(json.dumps(outcome), encoding="utf-8")
    assert build_report(folder).data["cautions"] == [
        "the pipeline declares that its answers never repeat; it was not held to the same answers again"
    ]
