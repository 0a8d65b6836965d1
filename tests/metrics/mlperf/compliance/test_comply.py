"""MLPerf's compliance tests: verdicts on folders made by hand, and a pipeline that caches caught by the real thing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suite as command
from configs.errors import ConfigError
from metrics.base import Run
from metrics.mlperf.compliance import comply, results, settings
from metrics.mlperf.compliance.judge import judge
from metrics.mlperf.compliance.run_tests import check_ranks
from metrics.mlperf.compliance.verdict import Verdict
from metrics.report.html import page
from metrics.report.report import load_run
from pipelines.launcher.provenance import seal
from pipelines.launcher.worker import worker
from tests.conftest import ROOT, record
from tests.metrics.conftest import write_run
from workloads.records import Record, Sample

PLUGIN = str(ROOT / "tests/metrics/validity/saboteurs.py")
SAMPLES = [Sample(i, f"prompt {i}", {"answer": "yes"}) for i in range(10)]
END = 0


def answer(query_id: int, **fields: Any) -> Record:
    """Ten tokens that say yes."""
    values = {"text": "yes", "digest": "ab" * 8, "num_units": 10, "finish_reason": "stop", "sample_index": query_id % 10}
    return record(query_id, **values | fields)


def logs(folder: Path, answers: Sequence[dict[str, Any]] = (), **values: Any) -> None:
    """LoadGen's detail log and accuracy log of a performance test."""
    found = {"effective_scenario": "Offline", "result_validity": "VALID", "result_samples_per_second": 100.0} | values
    entries = [{"key": k, "value": v, "metadata": {"is_error": False}} for k, v in found.items()]
    (folder / "performance/mlperf_log_detail.txt").write_text("".join(f":::MLLOG {json.dumps(e)}\n" for e in entries), encoding="utf-8")
    (folder / "performance/mlperf_log_accuracy.json").write_text(json.dumps(list(answers)), encoding="utf-8")


def logged(query_id: int, tokens: Sequence[int] = (5, 6, 7, 8, 9, 5, 6, 7, 8, END), **fields: Any) -> dict[str, Any]:
    data = np.asarray(tokens, dtype="<i4").tobytes().hex().upper()
    return {"seq_id": query_id, "qsl_idx": query_id % 10, "data": data, "token_count": len(tokens)} | fields


@pytest.fixture
def reference(tmp_path: Path) -> Run:
    """A run of both modes: a hundred samples a second, all answers right, ten tokens each."""
    timed = [answer(i) for i in range(10)]
    folder = write_run(
        tmp_path / "run", SAMPLES, [*timed, *(answer(i, mode="accuracy") for i in range(10))], mode="both", metrics=["exact_match"]
    )
    logs(folder)
    return load_run(folder)


def verdict(
    reference: Run, test: str, records: Sequence[Record], answers: Sequence[dict[str, Any]] = (), **values: Any
) -> tuple[Verdict, Path]:
    """Of a test's run with these records and logs; and the folder with the official files."""
    target = reference.folder.with_name("run-compliance")
    logs(write_run(target / "runs" / test, SAMPLES, records, metrics=["exact_match"]), answers, **values)
    return judge(test, reference, target), target / test


def repeated(count: int = 20) -> list[Record]:
    return [answer(i, sample_index=3) for i in range(count)]


@pytest.mark.parametrize(("rate", "result"), [(60.0, "holds"), (109.0, "holds"), (111.0, "fails")])
def test_the_same_sample_may_be_a_tenth_faster_and_no_more(reference: Run, rate: float, result: str) -> None:
    found, files = verdict(reference, "TEST04", repeated(), result_samples_per_second=rate)
    assert found.result == result
    assert found.figures["speed_ratio"] == pytest.approx(rate / 100)
    text = (files / "verify_performance.txt").read_text(encoding="utf-8")
    assert ("TEST PASS" in text) == (result == "holds")
    assert f"= {rate / 100:.4f}" in text
    assert sorted(p.name for p in (files / "performance/run_1").iterdir()) == ["mlperf_log_detail.txt", "mlperf_log_summary.txt"]


def test_of_streams_the_inverse_of_the_latency_is_the_speed(reference: Run) -> None:
    stream: dict[str, Any] = {"effective_scenario": "SingleStream", "early_stopping_latency_ss": 100_000_000}
    logs(reference.folder, **stream)
    found, _ = verdict(reference, "TEST04", repeated(), **stream | {"early_stopping_latency_ss": 50_000_000})
    assert found.figures["speed_ratio"] == pytest.approx(2.0)
    assert found.result == "fails"


def test_an_invalid_log_fails_however_slow(reference: Run) -> None:
    found, files = verdict(reference, "TEST04", repeated(), result_validity="INVALID", result_invalid_reason="too short")
    assert found.result == "fails"
    assert "too short" in found.told
    assert "TEST FAIL" in (files / "verify_performance.txt").read_text(encoding="utf-8")


def test_settings_of_a_test_that_were_not_in_force_fail_it(reference: Run) -> None:
    found, _ = verdict(reference, "TEST04", [answer(i) for i in range(10)])
    assert found.result == "fails"
    assert "10 samples and not one" in found.told


@pytest.mark.parametrize(("again", "result"), [(205.0, "holds"), (400.0, "fails")])
def test_a_machine_that_became_faster_is_no_cache(reference: Run, again: float, result: str) -> None:
    runs = reference.folder.with_name("run-compliance") / "runs"
    for name, rate in (("TEST04-control-1", 200.0), ("TEST04-again-1", again)):
        logs(write_run(runs / name, SAMPLES, repeated()), result_samples_per_second=rate)
    found, files = verdict(reference, "TEST04", repeated(), result_samples_per_second=200.0)
    assert found.result == result
    assert "2.00x the speed of the run" in found.told
    assert f"{again / 200:.3f}" in (files / "verify_performance.txt").read_text(encoding="utf-8")


def test_controls_are_asked_for_where_a_test_is_off_and_never_under_mlperfs_rules(reference: Run, tmp_path: Path) -> None:
    run = Run(
        reference.folder, reference.config, reference.workload, reference.samples, reference.records, {"performance": {"target_qps": 9.0}}
    )
    audit = comply.audit_of(run, "TEST01", tmp_path / "out")
    logs(write_run(audit.folder, SAMPLES, repeated()), result_samples_per_second=120.0)
    assert [a.name for a in comply.pairs(run, audit)][:2] == ["TEST01-control-1", "TEST01-again-1"]
    assert comply.pairs(run, audit)[0].fresh
    assert comply.pairs(run, audit)[0].config.seed != run.config.seed
    strict = run.config.model_copy(update={"rules": "mlperf-v6.1"})
    assert not comply.pairs(replace(run, config=strict), audit)
    logs(audit.folder, result_samples_per_second=105.0)
    assert not comply.pairs(run, audit)


def test_a_query_that_failed_fails_the_test(reference: Run) -> None:
    records = [*repeated(), answer(20, sample_index=3, status="failed", error="out of memory")]
    found, _ = verdict(reference, "TEST04", records)
    assert found.result == "fails"
    assert "1 of 21 queries failed, first: out of memory" in found.told


def test_answers_of_performance_mode_must_be_those_of_accuracy_mode(reference: Run) -> None:
    found, files = verdict(reference, "TEST01", [answer(i) for i in range(10)], [logged(i) for i in range(10)])
    assert found.result == "holds"
    assert "10 of 10 answers" in found.told
    assert "TEST PASS" in (files / "verify_accuracy.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(("text", "result"), [("Yes", "holds"), ("no", "fails")])
def test_answers_that_differ_must_score_as_high(reference: Run, text: str, result: str) -> None:
    other = [answer(i, **({"digest": "cd" * 8, "text": text} if i == 0 else {})) for i in range(10)]
    found, files = verdict(reference, "TEST01", other, [logged(i) for i in range(10)])
    assert found.result == result
    assert "9 of 10 answers" in found.told
    assert (files / "accuracy/baseline_accuracy.txt").read_text(encoding="utf-8") == "exact_match: 1\n"


def test_a_slow_test_fails_where_performance_has_to_be_the_same(reference: Run) -> None:
    found, _ = verdict(reference, "TEST01", [answer(i) for i in range(10)], [logged(i) for i in range(10)], result_samples_per_second=89.0)
    assert found.result == "fails"


TEST06_FAULTS = [
    ({"token_data": "05000000"}, "holds", "First token check pass: True"),
    ({}, "holds", "First token check pass: Skipped"),
    ({"token_data": "06000000"}, "fails", "First token check pass: False"),
    ({"token_count": 11}, "fails", "Sample length check pass: False"),
    ({"tokens": (5, 6, 7, 8, 9, 5, 6, 7, END, END)}, "fails", "EOS check pass: False"),
]


@pytest.mark.parametrize(("fields", "result", "told"), TEST06_FAULTS)
def test_tokens_must_be_as_announced_and_counted(reference: Run, fields: dict[str, Any], result: str, told: str) -> None:
    announced: dict[str, Any] = {"token_data": "05000000"} if "token_data" in fields else {}
    answers = [logged(0, **fields), *(logged(i, **announced) for i in range(1, 10))]
    found, files = verdict(reference, "TEST06", [answer(i) for i in range(10)], answers)
    assert found.result == result
    text = (files / "verify_accuracy.txt").read_text(encoding="utf-8")
    assert told in text
    assert ("verification complete" in text) == (result == "holds")


def test_a_pipeline_without_token_ids_is_not_said_to_pass(reference: Run) -> None:
    found, files = verdict(reference, "TEST06", [answer(i) for i in range(10)], [logged(i, data="AB" * 8) for i in range(10)])
    assert found.result == "not held"
    assert "toy_llm" in found.told
    assert not (files / "verify_accuracy.txt").exists()


@pytest.mark.parametrize(("num_wrong", "result"), [(0, "holds"), (1, "fails")])
def test_accuracy_in_performance_mode_is_held_to_the_runs_own(reference: Run, num_wrong: int, result: str) -> None:
    records = [answer(i, text="no" if i < num_wrong else "yes") for i in range(10)]
    found, files = verdict(reference, "TEST07", records, [logged(i) for i in range(10)])
    assert found.result == result
    assert "99% of the run's own exact_match, 1" in found.basis
    assert f"Accuracy score: {1 - num_wrong / 10:g}" in (files / "verify_accuracy.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(("length", "result"), [(9, "holds"), (8, "fails"), (12, "fails")])
def test_answers_must_be_as_long_as_the_runs_own(reference: Run, length: int, result: str) -> None:
    answers = [logged(i, [*range(1, length), END]) for i in range(10)]
    found, files = verdict(reference, "TEST09", [answer(i) for i in range(10)], answers)
    assert found.result == result
    assert f"Mean output tokens: {length:.2f}" in (files / "verify_output_len.txt").read_text(encoding="utf-8")


def test_settings_are_those_of_the_official_files(reference: Run) -> None:
    seed = {"mode": 2, "accuracy_log_rng_seed": 720381539243781796}
    unhurried = {"min_duration": 0, "sample_concatenate_permutation": 0}
    assert settings.settings(reference, "TEST01", 10) == seed | {"accuracy_log_sampling_target": 128}
    assert settings.settings(reference, "TEST06", 10) == seed | unhurried | {
        "accuracy_log_sampling_target": 100,
        "min_query_count": 100,
        "use_token_latencies": 1,
    }
    assert settings.settings(reference, "TEST09", 10) == seed | unhurried | {"accuracy_log_sampling_target": 10_000, "min_query_count": 10}


@pytest.mark.parametrize("file", [None, "perf/perf_eval_ref.jsonl", "perf_eval_ref.jsonl"])
def test_gpt_oss_is_asked_the_set_that_is_made_for_test07(reference: Run, tmp_path: Path, file: str | None) -> None:
    """All of it and none of the run's own options; the sets lie in folders beside each other, or in one."""
    path = "builtin:made-up" if file is None else str(tmp_path / "data" / file)
    if file is not None:
        asked = tmp_path / "data" / ("acc" if "/" in file else ".") / "acc_eval_compliance_gpqa.jsonl"
        for each in (Path(path), asked):
            each.parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps({"text_input": "?"}) + "\n", encoding="utf-8")
        rows = [{"text_input": f"question {i}", "dataset": "gpqa", "ground_truth": "A"} for i in range(990)]
        asked.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    dataset = {"source": "gpt-oss-performance", "path": path, "sha256": "00", "num_prompts": 3}
    config = reference.config.model_copy(update={"benchmark": "gpt-oss-120b", "dataset": dataset})
    run = replace(reference, config=config, outcome={"performance": {"target_qps": 9.0}})
    audit = comply.audit_of(run, "TEST07", tmp_path / "out")
    count = len(audit.samples)
    assert audit.config.dataset["source"] == "gpt-oss-gpqa"
    assert audit.config.dataset.keys() == {"source", "path"}
    assert {s.meta["subset"] for s in audit.samples} == {"gpqa"}
    assert count == 990 if file else 1 < count < 990
    assert audit.settings == {
        "mode": 2,
        "accuracy_log_rng_seed": 720381539243781796,
        "accuracy_log_sampling_target": 10_000,
        "min_duration": 0,
        "sample_concatenate_permutation": 0,
        "min_query_count": count,
    }
    assert comply.why_not(run, "TEST07") == ""


def test_a_set_of_test07_that_is_not_there_is_told_with_the_command_that_fetches_it(reference: Run) -> None:
    config = reference.config.model_copy(update={"benchmark": "gpt-oss-120b", "dataset": {}})
    assert "'gpt-oss-gpqa' has no dataset.path to read from. Fetch the compliance set" in comply.why_not(
        replace(reference, config=config), "TEST07"
    )


@pytest.mark.parametrize(("num_right", "result"), [(6, "fails"), (7, "holds")])
def test_gpt_oss_is_held_to_the_official_threshold_whatever_the_runs_metrics(reference: Run, num_right: int, result: str) -> None:
    samples = [Sample(i, f"question {i}", {"answer": "B", "scored_by": "gpqa", "subset": "gpqa"}) for i in range(10)]
    target = reference.folder.with_name("run-compliance")
    letters = ["B" if i < num_right else "C" for i in range(10)]
    records = [answer(i, text=f"assistantfinal Answer: {letter}") for i, letter in enumerate(letters)]
    folder = write_run(target / "runs/TEST07", samples, records, metrics=["tokens"], benchmark="gpt-oss-120b")
    logs(folder, [logged(i) for i in range(10)])
    config = reference.config.model_copy(update={"benchmark": "gpt-oss-120b"})
    found = judge("TEST07", replace(reference, config=config), target)
    assert (found.result, found.figures) == (result, {"gpt_oss_gpqa": 10.0 * num_right})
    assert found.basis == "at least 60.7: official: 60.698 on GPQA"


def test_where_mlperf_asks_no_test_that_is_said_and_is_no_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values: dict[str, Any] = {"workload": "vlm", "pipeline": {"name": "toy_vlm"}, "benchmark": "qwen3-vl-235b-a22b"}
    folder = write_run(tmp_path / "run", SAMPLES, [answer(i) for i in range(10)], **values)
    assert command.app(["comply", str(folder)], standalone_mode=False) is None
    told = capsys.readouterr()
    assert "MLPerf asks for no compliance test of qwen3-vl-235b-a22b; nothing was run" in told.err
    assert json.loads(told.out)["verdict"] == "NONE ASKED"
    assert not (tmp_path / "run-compliance").exists()


@pytest.fixture
def timed(tmp_path: Path) -> Path:
    """A run without an accuracy test, as it was left: TEST01 cannot be held on it."""
    folder = write_run(tmp_path / "timed", SAMPLES, [answer(i) for i in range(10)])
    logs(folder)
    seal(folder)
    return folder


def _as_held(target: Path, run: Path, *tests: str) -> None:
    verdicts = {t: {"result": "holds", "told": "as it should", "basis": "official", "figures": {}} for t in tests}
    for name in tests:
        (target / "runs" / name).mkdir(parents=True)
    (target / "comply.json").write_text(json.dumps({"log": results.performance_log_hash(run), "tests": verdicts}), encoding="utf-8")


def test_tests_that_were_held_stay_and_those_that_were_not_are_added(timed: Path) -> None:
    target = results.folder_beside(timed)
    _as_held(target, timed, "TEST04", "TEST06", "TEST07", "TEST09")
    found = comply.comply(timed, [], None)
    assert found is not None
    assert [(v.test, v.result) for v in found.verdicts] == [("TEST01", "not held"), *((t, "holds") for t in comply.TESTS[1:])]
    assert found.verdict == "INCOMPLETE"
    assert results.read_verdicts(target)["tests"].keys() == set(comply.TESTS)
    with pytest.raises(ConfigError, match="holds TEST04 already"):
        comply.comply(timed, ["TEST04"], None)
    assert comply.comply(timed, ["TEST01"], None) is not None  # once more: it was not run
    (target / "runs/TEST01").mkdir()
    with pytest.raises(ConfigError, match=r"holds TEST01, TEST04, .* already; give --output another folder"):
        comply.comply(timed, [], None)


def test_tests_of_another_run_and_broken_off_ones_are_not_added_to(timed: Path) -> None:
    target = results.folder_beside(timed)
    _as_held(target, timed, "TEST04")
    (target / "runs/TEST06").mkdir()
    with pytest.raises(ConfigError, match="holds a TEST06 that was broken off"):
        comply.comply(timed, [], None)
    kept = json.loads((target / "comply.json").read_text(encoding="utf-8"))
    (target / "comply.json").write_text(json.dumps(kept | {"log": "of another"}), encoding="utf-8")
    with pytest.raises(ConfigError, match="holds the tests of another run"):
        comply.comply(timed, [], None)


@pytest.mark.parametrize(("scenario", "asked"), [("offline", 4), ("single_stream", 8)])
def test_of_texts_the_sample_that_speed_rests_on_is_repeated(reference: Run, scenario: str, asked: int) -> None:
    config = reference.config.model_copy(update={"scenario": scenario})
    records = [answer(i, num_units=10 * (i + 1) - 5, num_input_tokens=1) for i in range(10)]  # 5, 15 .. 95 tokens
    run = replace(reference, config=config, records=records)
    place = settings.settings(run, "TEST04", 10)["performance_issue_same_index"]
    assert settings.library_order(config, 10)[place] == asked


def test_loadgens_order_is_a_permutation_and_depends_on_the_seed(reference: Run) -> None:
    orders = [settings.library_order(reference.config.model_copy(update={"seed": seed}), 10) for seed in (1, 1, 2)]
    assert sorted(orders[0]) == list(range(10))
    assert orders[0] == orders[1] != orders[2]


def test_another_number_of_ranks_is_refused_with_the_command() -> None:
    command_line = "accelerate launch --config_file configs/accelerate/cpu_2.yaml --num_processes 2 suite.py comply RUN"
    with pytest.raises(ConfigError, match=command_line):
        check_ranks(2, True, "comply RUN")


def test_a_run_that_was_edited_is_refused(reference: Run) -> None:
    (reference.folder / "records.jsonl").open("a", encoding="utf-8").write("\n")
    with pytest.raises(ConfigError, match=r"records\.jsonl"):
        comply.check_run(reference)


@pytest.mark.parametrize(("sabotage", "verdict"), [(True, "FAIL"), (False, "PASS")])
def test_a_pipeline_that_caches_is_caught_and_an_honest_one_passes(
    sabotage: bool, verdict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(page, "write_html", lambda report: None)
    monkeypatch.setattr(worker, "WARM_UP_S", 0.1)
    monkeypatch.setattr(comply, "PAIRS", 1)
    pipeline = {"name": "caches_texts", "prefill_s": 0.15, "sabotage": sabotage, "batch_size": 16}
    changes = ("load.min_duration_s=0.5", "load.target_qps=60", "warmup_batches=1", "truth.replays=0", "metrics=[exact_match]")
    words = [word for change in (*changes, f"pipeline={json.dumps(pipeline)}") for word in ("--set", change)]
    command.app(["--config", "llm/toy", "--plugin", PLUGIN, *words, "--output", "run"], standalone_mode=False)
    tests = ["--test", "TEST04", *(() if sabotage else ("--test", "TEST06"))]
    code = command.app(["comply", "run", *tests, "--plugin", PLUGIN], standalone_mode=False)
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["verdict"] == verdict, (tmp_path / "run-compliance/comply.json").read_text(encoding="utf-8")
    assert code == (command.EXIT_INVALID if sabotage else None)
    ratio = json.loads((tmp_path / "run-compliance/comply.json").read_text(encoding="utf-8"))["tests"]["TEST04"]["figures"]["speed_ratio"]
    assert (ratio > 2) == sabotage
    assert not (tmp_path / "run/TEST04").exists()
