"""Notices that accompany figures, and differences from the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from configs.load_config import parse_config
from metrics.report.html.page import write_html
from metrics.report.report import build_report
from metrics.report.terminal import print_summary
from tests.conftest import record
from tests.metrics.conftest import write_run
from tests.workloads.conftest import mlperf_config
from workloads.mlperf.benchmarks import benchmark
from workloads.mlperf.notices import UNVERIFIED, differences_from_reference, notice, notices
from workloads.mlperf.run_rules import apply_mlperf_rules
from workloads.records import Sample


@pytest.mark.parametrize("cache", ["first_block", {"name": "first_block", "threshold": 0.1}])
def test_differences_from_the_reference_are_named(cache: str | dict[str, Any]) -> None:
    own_noise = "a clip starts from noise of its own seed; the reference starts all from one latent, fixed_latent.pt, and seed 42"
    wan = benchmark("wan-2.2-t2v-a14b", "v6.1")
    assert differences_from_reference(wan, {}) == differences_from_reference(wan, {"cache": "none"}) == [own_noise]
    assert differences_from_reference(wan, {"cache": cache})[1].startswith("pipeline.cache is first_block: parts of the denoiser's work")
    assert differences_from_reference(benchmark("llama2-70b-99.9", "v6.1"), {}) == []


def test_a_report_names_differences_from_the_reference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    difference = "the reference starts all from one latent, fixed_latent.pt"
    config = {"workload": "t2v", "pipeline": {"name": "toy_t2v"}, "benchmark": "wan-2.2-t2v-a14b"}
    for rules, count in (("mlperf-v6.1", 1), ("quick", 0)):
        report = build_report(write_run(tmp_path / rules, [Sample(0, "a red square")], [record(0)], **config, rules=rules))
        assert len(report.data["notes"]) == count
        write_html(report)
        print_summary(report)
        assert all(difference in note for note in report.data["notes"])
        assert (difference in (tmp_path / rules / "report.html").read_text("utf-8")) == bool(count)
        assert (difference in " ".join(capsys.readouterr().err.split())) == bool(count)


def test_every_notice_says_that_nothing_was_verified() -> None:
    quick = parse_config({"workload": "llm", "pipeline": {"name": "toy_llm"}}, "t")
    ours = apply_mlperf_rules(mlperf_config("wan-2.2-t2v-a14b", "single_stream"))
    assert UNVERIFIED == "Result not verified by MLCommons Association."
    assert notice(quick).startswith("Not an MLPerf\u2122 result")
    assert notice(ours).startswith("Unverified MLPerf\u2122 v6.1 Inference wan-2.2-t2v-a14b SingleStream. ")
    assert all(UNVERIFIED in notice(config) for config in (quick, ours))
    assert notices([ours, ours]) == notice(ours)
    assert "may only be compared" in notices([quick, ours])
