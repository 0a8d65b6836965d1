"""suite.py comply: which tests run, what is kept in the folder, and real runs with and without a cache."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import suite as command
from configs.command_line import EXIT_INVALID
from configs.errors import ConfigError
from metrics.base import Run
from metrics.mlperf.compliance import comply, results
from metrics.mlperf.compliance.run_tests import check_ranks
from metrics.report.html import page
from pipelines.launcher.worker import generation
from tests.conftest import ROOT
from tests.metrics.conftest import write_run
from tests.metrics.mlperf.compliance.conftest import SAMPLES, answer, logs, repeated

PLUGIN = str(ROOT / "tests/metrics/validity/saboteurs.py")


def test_controls_are_added_if_a_tests_speed_is_off_and_never_under_mlperfs_rules(reference: Run, tmp_path: Path) -> None:
    run = Run(
        reference.folder, reference.config, reference.workload, reference.samples, reference.records, {"performance": {"target_qps": 9.0}}
    )
    audit = comply.make_audit(run, "TEST01", tmp_path / "out")
    logs(write_run(audit.folder, SAMPLES, repeated()), result_samples_per_second=120.0)
    assert [a.name for a in comply.controls(run, audit)][:2] == ["TEST01-control-1", "TEST01-again-1"]
    assert comply.controls(run, audit)[0].fresh
    assert comply.controls(run, audit)[0].config.seed != run.config.seed
    strict = run.config.model_copy(update={"rules": "mlperf-v6.1"})
    assert not comply.controls(replace(run, config=strict), audit)
    logs(audit.folder, result_samples_per_second=105.0)
    assert not comply.controls(run, audit)


def test_a_benchmark_without_required_tests_is_no_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values: dict[str, Any] = {"workload": "vlm", "pipeline": {"name": "toy_vlm"}, "benchmark": "qwen3-vl-235b-a22b"}
    folder = write_run(tmp_path / "run", SAMPLES, [answer(i) for i in range(10)], **values)
    assert command.app(["comply", str(folder)], standalone_mode=False) is None
    output = capsys.readouterr()
    assert "NOT REQUIRED  MLPerf requires no compliance test of qwen3-vl-235b-a22b; nothing was run" in output.err
    assert json.loads(output.out)["verdict"] == "NONE ASKED"
    assert not (tmp_path / "run-compliance").exists()


def write_verdicts(target: Path, run: Path, *tests: str) -> None:
    verdicts = {t: {"result": "holds", "told": "within the tolerance", "basis": "official", "figures": {}} for t in tests}
    for name in tests:
        (target / "runs" / name).mkdir(parents=True)
    (target / "comply.json").write_text(json.dumps({"log": results.performance_log_hash(run), "tests": verdicts}), encoding="utf-8")


def test_completed_tests_are_kept_and_those_that_were_not_run_are_added(timed: Path) -> None:
    target = results.folder_beside(timed)
    write_verdicts(target, timed, "TEST04", "TEST06", "TEST07", "TEST09")
    compliance = comply.comply(timed, [], None)
    assert compliance is not None
    assert [(v.test, v.result) for v in compliance.verdicts] == [("TEST01", "not held"), *((t, "holds") for t in comply.TESTS[1:])]
    assert compliance.verdict == "INCOMPLETE"
    assert results.read_verdicts(target)["tests"].keys() == set(comply.TESTS)
    with pytest.raises(ConfigError, match="already holds TEST04"):
        comply.comply(timed, ["TEST04"], None)
    assert comply.comply(timed, ["TEST01"], None) is not None  # again: it was not run
    (target / "runs/TEST01").mkdir()
    with pytest.raises(ConfigError, match=r"already holds TEST01, TEST04, .* choose another one with --output"):
        comply.comply(timed, [], None)


def test_folders_with_interrupted_tests_or_another_runs_are_refused(timed: Path) -> None:
    target = results.folder_beside(timed)
    write_verdicts(target, timed, "TEST04")
    (target / "runs/TEST06").mkdir()
    with pytest.raises(ConfigError, match="holds a TEST06 that was interrupted"):
        comply.comply(timed, [], None)
    kept = json.loads((target / "comply.json").read_text(encoding="utf-8"))
    (target / "comply.json").write_text(json.dumps(kept | {"log": "of another"}), encoding="utf-8")
    with pytest.raises(ConfigError, match="holds the tests of another run"):
        comply.comply(timed, [], None)


def test_another_number_of_ranks_is_refused_with_the_right_command() -> None:
    command_line = "accelerate launch --config_file configs/accelerate/cpu_2.yaml --num_processes 2 suite.py comply RUN"
    with pytest.raises(ConfigError, match=command_line):
        check_ranks(2, True, "comply RUN")


def test_a_run_that_was_edited_is_refused(reference: Run) -> None:
    (reference.folder / "records.jsonl").open("a", encoding="utf-8").write("\n")
    with pytest.raises(ConfigError, match=r"records\.jsonl"):
        comply.check_run(reference)


@pytest.mark.parametrize(("sabotage", "verdict"), [(True, "FAIL"), (False, "PASS")])
def test_a_pipeline_that_caches_fails_and_one_that_does_not_passes(
    sabotage: bool, verdict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(page, "write_html", lambda report: None)
    monkeypatch.setattr(generation, "WARM_UP_S", 0.1)
    monkeypatch.setattr(comply, "NUM_PAIRS", 1)
    pipeline = {"name": "caches_texts", "prefill_s": 0.15, "sabotage": sabotage, "batch_size": 16}
    changes = ("load.min_duration_s=0.5", "load.target_qps=60", "warmup_batches=1", "truth.replays=0", "metrics=[exact_match]")
    words = [word for change in (*changes, f"pipeline={json.dumps(pipeline)}") for word in ("--set", change)]
    command.app(["--config", "llm/toy", "--plugin", PLUGIN, *words, "--output", "run"], standalone_mode=False)
    tests = ["--test", "TEST04", *(() if sabotage else ("--test", "TEST06"))]
    code = command.app(["comply", "run", *tests, "--plugin", PLUGIN], standalone_mode=False)
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["verdict"] == verdict, (tmp_path / "run-compliance/comply.json").read_text(encoding="utf-8")
    assert code == (EXIT_INVALID if sabotage else None)
    ratio = json.loads((tmp_path / "run-compliance/comply.json").read_text(encoding="utf-8"))["tests"]["TEST04"]["figures"]["speed_ratio"]
    assert (ratio > 1.4) == sabotage
    assert not (tmp_path / "run/TEST04").exists()
