from __future__ import annotations

from pathlib import Path

from metrics.report.html.page import write_html
from metrics.report.report import build_report, headline
from metrics.report.run_facts import titles
from tests.conftest import record
from tests.metrics.conftest import write_run
from workloads.records import Sample

DRAWN = {"name": "transformers_llm", "weights": "random", "architecture": "llama2-70b", "shrink": {"layers": 2}}


def test_quality_of_random_weights_is_never_shown(tmp_path: Path) -> None:
    samples = [Sample(i, f"prompt {i}", {"answer": "yes"}) for i in range(4)]
    records = [record(i, text="yes", num_units=1, finish_reason="stop") for i in range(4)]
    report = build_report(write_run(tmp_path / "drawn", samples, records, pipeline=DRAWN, metrics=["throughput", "exact_match"]))
    figures = report.data["figures"]
    assert figures["exact_match"]["value"] is None
    assert figures["exact_match"]["note"] == "withheld: random weights have no quality"
    assert figures["answers_per_s"]["value"] == 1.0
    assert "exact_match" not in headline(report)
    assert not any(sample["scores"] for sample in report.data["samples"])
    assert titles([report]) == ["llm llama2-70b, shrunk (random weights)"]
    assert "<b>Random weights.</b>" in write_html(report).read_text(encoding="utf-8")
    trained = build_report(write_run(tmp_path / "trained", samples, records, metrics=["exact_match"]))
    assert trained.data["figures"]["exact_match"]["value"] == 1.0
    assert titles([trained]) == ["llm"]
