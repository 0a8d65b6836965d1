"""A submission that keeps to every rule is let through; one thing wrong with it is refused by file and reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import suite as command
from configs.errors import ConfigError
from metrics.mlperf.compliance.results import folder_beside, performance_log_hash
from metrics.mlperf.submission.check import check
from metrics.mlperf.submission.check_result import Refusal
from metrics.mlperf.submission.files import PATTERNS, read_accuracy, truncated, write_mp4
from metrics.mlperf.submission.system import HARDWARE, MEANINGFUL, SOFTWARE
from metrics.mlperf.submission.write import compliance_of, manifest_hash, write_submission
from metrics.report.report import build_report, load_run
from pipelines.launcher.provenance import seal
from tests.conftest import record
from tests.metrics.conftest import write_run
from workloads.loadgen.load_test import LOADGEN_SCENARIOS
from workloads.mlperf.benchmarks import benchmark
from workloads.mlperf.notices import UNVERIFIED
from workloads.mlperf.rules import seeds
from workloads.records import Sample
from workloads.run_folder.media import read_video, write_video

NAME = "qwen3-vl-235b-a22b"
GOODS = json.dumps({"category": "Home > Kitchen"})
RESULTS = "closed/Example/results/8xMI355X/qwen3-vl-235b-a22b"
SYSTEM_FILE = "closed/Example/systems/8xMI355X.json"
SYSTEM = {
    "os": "Linux",
    "python": "3.11",
    "processor": "EPYC",
    "num_cpus": 128,
    "memory_bytes": 2**40,
    "rocm": "7.0",
    "cuda": None,
    "accelerators": [{"name": "MI355X", "memory_bytes": 288 * 2**30}] * 8,
    "packages": {"torch": "2.13.0"},
}

UNMEASURED = {field: "told" for field in MEANINGFUL if field not in (*HARDWARE, *SOFTWARE, "division", "submitter")}


def detail(folder: Path, scenario: str, mode: str, **values: Any) -> None:
    """LoadGen's logs of a test that keeps to v6.1's rules, but for `values`."""
    rules, wanted = benchmark(NAME, "v6.1").of(scenario), seeds("v6.1")
    found: dict[str, Any] = {
        "effective_scenario": LOADGEN_SCENARIOS[rules.scenario],
        "effective_test_mode": "PerformanceOnly" if mode == "performance" else "AccuracyOnly",
        "effective_qsl_rng_seed": wanted.qsl,
        "effective_sample_index_rng_seed": wanted.sample_index,
        "effective_schedule_rng_seed": wanted.schedule,
        "qsl_reported_total_count": rules.num_samples,
        "effective_min_duration_ms": 600_000,
        "effective_min_sample_count": rules.num_samples,
        "effective_min_query_count": 100,
        "effective_sample_concatenate_permutation": True,
        "effective_target_latency_percentile": 0.99,
        "requested_use_token_latencies": False,
        "requested_server_target_latency_ns": 12_000_000_000,
        "result_validity": "VALID",
        "result_min_duration_met": True,
        "result_samples_per_second": 60.0,
        "result_completed_samples_per_sec": 50.0,
        "result_max_latency_ns": 601 * 10**9,
    } | {k: v for k, v in values.items() if k != "error"}
    entries = [{"key": k, "value": v, "metadata": {"is_error": False}} for k, v in found.items()]
    if "error" in values:
        entries.append({"key": "error_runtime", "value": values["error"], "metadata": {"is_error": True}})
    folder.mkdir(exist_ok=True)
    (folder / "mlperf_log_detail.txt").write_text("".join(f":::MLLOG {json.dumps(e)}\n" for e in entries), encoding="utf-8")
    (folder / "mlperf_log_summary.txt").write_text(f"Result is : {found['result_validity']}\n", encoding="utf-8")
    (folder / "mlperf_log_accuracy.json").write_text("[" + "7" * 30_000 + "]", encoding="utf-8")


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Offline and Server of the catalogue, both modes; every answer is right."""
    samples = [Sample(i, f"What is {i}?", {"answer": GOODS}) for i in range(4)]
    made = []
    for scenario in ("offline", "server"):
        records = [record(i, mode=mode, text=GOODS, num_units=4) for mode in ("performance", "accuracy") for i in range(4)]
        config = {
            "workload": "vlm",
            "pipeline": {"name": "toy_vlm"},
            "metrics": ["hierarchical_f1"],
            "mode": "both",
            "benchmark": NAME,
            "rules": "mlperf-v6.1",
        }
        folder = write_run(tmp_path / scenario, samples, records, scenario=scenario, **config)
        outcome = json.loads((folder / "outcome.json").read_text(encoding="utf-8"))
        (folder / "outcome.json").write_text(json.dumps(outcome | {"accuracy": outcome["performance"]}), encoding="utf-8")
        (folder / "system.json").write_text(json.dumps(SYSTEM), encoding="utf-8")
        for mode in ("performance", "accuracy"):
            detail(folder / mode, scenario, mode)
        settle(folder)
        made.append(folder)
    return made


def settle(folder: Path) -> None:
    """Seal the run and report on it; the verdict of that report is not what is tested here."""
    seal(folder)
    report = build_report(folder)
    found = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert report.data["schema"]
    (folder / "report.json").write_text(json.dumps(found | {"verdict": "VALID", "reasons": []}), encoding="utf-8")


@pytest.fixture
def submit(runs: list[Path], tmp_path: Path) -> Callable[..., tuple[Path, list[Refusal]]]:
    """The submission of the runs, and what is refused of it."""

    def made(given: list[Path] | None = None, division: str = "closed", **described: str) -> tuple[Path, list[Refusal]]:
        describe = tmp_path / "describe.json"
        describe.write_text(json.dumps(UNMEASURED | described), encoding="utf-8")
        root = write_submission(given or runs, "Example", division, "v6.1", "8xMI355X", describe, tmp_path / "submission")
        return root, check(root)

    return made


def told(refusals: list[Refusal], file: str) -> str:
    """The reasons, which must all be of that file."""
    assert {r.file for r in refusals} == {file}
    return "; ".join(r.reason for r in refusals)


def test_a_submission_that_keeps_to_all_rules_is_let_through(submit: Callable[..., Any]) -> None:
    root, refusals = submit()
    assert refusals == []
    result = root / RESULTS / "Offline"
    assert sorted(p.relative_to(result).as_posix() for p in result.rglob("*") if p.is_file()) == [
        "README.md",
        "accuracy/accuracy.txt",
        "accuracy/mlperf_log_accuracy.json",
        "accuracy/mlperf_log_detail.txt",
        "accuracy/mlperf_log_summary.txt",
        "measurements.json",
        "performance/run_1/mlperf_log_detail.txt",
        "performance/run_1/mlperf_log_summary.txt",
        "user.conf",
    ]
    assert (result / "accuracy/mlperf_log_accuracy.json").stat().st_size < 10 * 1024
    described = json.loads((root / SYSTEM_FILE).read_text(encoding="utf-8"))
    assert {field: described[field] for field in ("division", "submitter", "cooling")} == {
        "division": "closed",
        "submitter": "Example",
        "cooling": "told",
    }
    assert [described[field] for field in (*HARDWARE, "framework")] == [
        *("1", "EPYC", "128 (as the operating system counts them)", "1024 GiB", "8", "MI355X", "288 GiB", "torch 2.13.0")
    ]


LOGS = [
    ({"result_validity": "INVALID", "result_invalid_reason": "too short"}, "result_validity is INVALID: too short"),
    ({"result_min_duration_met": False}, "the minimum duration was not met"),
    ({"result_max_latency_ns": 9 * 10**9}, "the run lasted 9.0 s, 600 are asked"),
    ({"effective_qsl_rng_seed": 1}, "effective_qsl_rng_seed is 1"),
    ({"effective_min_duration_ms": 10_000}, "effective_min_duration_ms is 10000"),
    ({"effective_min_sample_count": 100}, "effective_min_sample_count is 100"),
    ({"error": "a query was never answered"}, "LoadGen logged 1 errors"),
]


@pytest.mark.parametrize(("values", "reason"), LOGS)
def test_what_loadgens_log_says_is_refused(values: dict[str, Any], reason: str, runs: list[Path], submit: Callable[..., Any]) -> None:
    detail(runs[0] / "performance", "offline", "performance", **values)
    settle(runs[0])
    _, refusals = submit()
    logs = f"{RESULTS}/Offline/performance/run_1/mlperf_log_"
    assert reason in told([r for r in refusals if not r.file.endswith("summary.txt")], f"{logs}detail.txt")
    summary = [r for r in refusals if r.file.endswith("summary.txt")]
    assert bool(summary) == ("result_validity" in values)


def test_an_accuracy_that_was_typed_in_is_refused(submit: Callable[..., Any]) -> None:
    root, _ = submit()
    file = root / RESULTS / "Offline/accuracy/accuracy.txt"
    file.write_text(file.read_text(encoding="utf-8").replace("1.000000", "0.800000"), encoding="utf-8")
    assert "F1_HIERARCHICAL is told as 0.8, and the run's answers give 1" in told(check(root), f"{RESULTS}/Offline/accuracy/accuracy.txt")


def test_an_accuracy_without_the_answers_is_refused(submit: Callable[..., Any], runs: list[Path]) -> None:
    root, _ = submit()
    shutil.rmtree(runs[1])
    reasons = {r.file.removeprefix(f"{RESULTS}/Server/"): r.reason for r in check(root)}
    assert set(reasons) == {"performance/run_1", "accuracy/accuracy.txt"}
    assert "cannot be computed again" in reasons["accuracy/accuracy.txt"]
    assert "cannot be held against its run" in reasons["performance/run_1"]


def test_answers_that_were_changed_afterwards_do_not_count(submit: Callable[..., Any], runs: list[Path]) -> None:
    root, _ = submit()
    records = runs[1] / "records.jsonl"
    records.write_bytes(records.read_bytes().replace(b"Kitchen", b"Garden"))
    reasons = told([r for r in check(root) if "accuracy.txt" in r.file], f"{RESULTS}/Server/accuracy/accuracy.txt")
    assert "the run's answers give 0.5" in reasons
    assert any("records.jsonl: not as manifest.json has it" in r.reason for r in check(root))


def test_a_miss_of_the_gate_is_refused_in_the_closed_division_alone(runs: list[Path], submit: Callable[..., Any], tmp_path: Path) -> None:
    records = runs[0] / "records.jsonl"
    records.write_bytes(records.read_bytes().replace(b"Kitchen", b"Garden"))
    settle(runs[0])
    _, refusals = submit()
    assert "F1_HIERARCHICAL is 0.5, at least 0.782397 is asked" in told(refusals, f"{RESULTS}/Offline/accuracy/accuracy.txt")
    shutil.rmtree(tmp_path / "submission")
    assert submit(division="open")[1] == []


def test_a_log_that_was_edited_is_refused(submit: Callable[..., Any]) -> None:
    root, _ = submit()
    file = root / RESULTS / "Offline/performance/run_1/mlperf_log_detail.txt"
    file.write_text(file.read_text(encoding="utf-8").replace('"value": 60.0', '"value": 600.0'), encoding="utf-8")
    assert "is not the run's own log" in told(check(root), f"{RESULTS}/Offline/performance/run_1/mlperf_log_detail.txt")


def test_a_run_that_its_own_report_calls_invalid_is_refused(submit: Callable[..., Any], runs: list[Path]) -> None:
    report = json.loads((runs[0] / "report.json").read_text(encoding="utf-8"))
    (runs[0] / "report.json").write_text(json.dumps(report | {"verdict": "INVALID", "reasons": ["canary 'empty'"]}), encoding="utf-8")
    _, refusals = submit()
    assert [r.reason for r in refusals] == ["the run is INVALID by its own report: canary 'empty'"] * 2


def test_a_required_scenario_that_is_missing_is_refused(runs: list[Path], submit: Callable[..., Any]) -> None:
    assert "one of Server or Interactive is missing" in told(submit(runs[:1])[1], RESULTS)


def test_the_systems_fields_must_say_something(submit: Callable[..., Any]) -> None:
    root, _ = submit()
    path = root / "closed/Example/systems/8xMI355X.json"
    fields = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(fields | {"cooling": "", "submitter": "Other"}), encoding="utf-8")
    reasons = told(check(root), "closed/Example/systems/8xMI355X.json")
    assert "fields that say nothing: cooling" in reasons
    assert "submitter is 'Other'" in reasons


def of_other_make(run: Path, **changes: Any) -> None:
    """The run's system.json with these changes, as if it had been so from the start."""
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
def test_what_was_measured_is_not_typed_in(field: str, value: str, measured: str, submit: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=rf"--describe says {field} is '{value}', and .* '{measured}'"):
        submit(**{field: value})
    assert submit(**{field: measured})[1] == []


def test_runs_of_unlike_hardware_are_no_one_system(submit: Callable[..., Any], runs: list[Path], tmp_path: Path) -> None:
    root, _ = submit()
    of_other_make(runs[1], accelerators=[{"name": "MI325X", "memory_bytes": 256 * 2**30}] * 8)
    with pytest.raises(
        ConfigError, match=r"server' was made on other hardware than .*offline': accelerator_model_name is 'MI325X' and 'MI3"
    ):
        write_submission(runs, "Example", "closed", "v6.1", None, None, tmp_path / "other")
    sources = json.loads((root / "runs.json").read_text(encoding="utf-8"))
    for tests in sources["results"].values():
        for one in tests.values():
            one["files"] = manifest_hash(root / one["run"])
    (root / "runs.json").write_text(json.dumps(sources), encoding="utf-8")
    assert "run 'server' was made on other hardware than 'offline'" in told(check(root), SYSTEM_FILE)


def test_a_description_that_was_edited_is_held_against_the_runs(submit: Callable[..., Any]) -> None:
    root, _ = submit()
    fields = json.loads((root / SYSTEM_FILE).read_text(encoding="utf-8"))
    changed = {"number_of_nodes": "12", "framework": "vLLM"}
    (root / SYSTEM_FILE).write_text(json.dumps(fields | changed), encoding="utf-8")
    assert [r.reason for r in check(root)] == [
        "number_of_nodes is told as '12', and the runs say '1'",
        "framework is told as 'vLLM', and the runs say 'torch 2.13.0'",
    ]


def test_software_that_differs_by_run_is_all_named(submit: Callable[..., Any], runs: list[Path]) -> None:
    of_other_make(runs[1], packages={"torch": "2.12.0"})
    root, refusals = submit()
    assert refusals == []
    assert json.loads((root / SYSTEM_FILE).read_text(encoding="utf-8"))["framework"] == "torch 2.13.0; torch 2.12.0"


def test_a_run_without_a_description_of_its_machine_is_refused(submit: Callable[..., Any], runs: list[Path]) -> None:
    (runs[1] / "system.json").unlink()
    with pytest.raises(ConfigError, match=r"server/system\.json cannot be read"):
        submit()
    (runs[1] / "system.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"server/system\.json is damaged \(KeyError"):
        submit()


def test_a_file_that_is_missing_is_named(submit: Callable[..., Any]) -> None:
    root, _ = submit()
    for name in ("user.conf", "accuracy/accuracy.txt", "performance/run_1/mlperf_log_summary.txt"):
        (root / RESULTS / "Server" / name).unlink()
    assert sorted(r.file.removeprefix(f"{RESULTS}/Server/") for r in check(root)) == [
        "accuracy/accuracy.txt",
        "performance/run_1/mlperf_log_summary.txt",
        "user.conf",
    ]


def test_compliance_tests_are_taken_from_where_they_were_written_and_only_if_they_are_the_runs_own(
    runs: list[Path], tmp_path: Path
) -> None:
    loaded = [load_run(run) for run in runs]
    assert compliance_of(loaded, []) == {}
    beside, elsewhere = folder_beside(runs[0]), tmp_path / "elsewhere"
    for folder, run in ((beside, runs[0]), (elsewhere, runs[1])):
        folder.mkdir()
        (folder / "comply.json").write_text(json.dumps({"log": performance_log_hash(run), "tests": {}}), encoding="utf-8")
    assert compliance_of(loaded, [elsewhere]) == {runs[0]: beside, runs[1]: elsewhere}
    with pytest.raises(ConfigError, match=r"elsewhere' holds the tests of none of these runs"):
        compliance_of(loaded[:1], [elsewhere])
    detail(runs[0] / "performance", "offline", "performance", result_samples_per_second=61.0)
    with pytest.raises(ConfigError, match=r"offline-compliance' holds the tests of another run that was called so: remove it"):
        compliance_of(loaded, [])
    (beside / "comply.json").unlink()
    with pytest.raises(ConfigError, match=r"offline-compliance' holds no compliance tests that can be read"):
        compliance_of(loaded, [])


def test_a_run_of_no_benchmark_and_two_runs_of_one_test_are_refused_at_once(runs: list[Path], tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", [Sample(0, "?")], [record(0)])
    with pytest.raises(ConfigError, match="--set benchmark=NAME"):
        write_submission([other], "Example", "closed", "v6.1", None, None, tmp_path / "out")
    with pytest.raises(ConfigError, match="both hold the performance test"):
        write_submission([runs[0], runs[0]], "Example", "closed", "v6.1", None, None, tmp_path / "out")


def test_the_command_ends_with_a_line_of_json_and_its_own_exit_code(submit: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    root, _ = submit()
    assert command.app(["submit", "--check", str(root)], standalone_mode=False) is None
    (root / RESULTS / "Server/user.conf").unlink()
    assert command.app(["submit", "--check", str(root)], standalone_mode=False) == command.EXIT_INVALID
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["verdict"] for line in lines] == ["OK", "REFUSED"]
    assert lines[1]["refusals"] == [{"file": f"{RESULTS}/Server/user.conf", "reason": "missing or empty"}]


def test_every_gates_metric_has_a_pattern_and_a_long_log_keeps_both_ends() -> None:
    metrics = {
        g.metric
        for round_ in ("v6.0", "v6.1")
        for name in (NAME, "gpt-oss-120b", "wan-2.2-t2v-a14b", "llama3.1-8b")
        for s in benchmark(name, round_).scenarios
        for g in s.gates
    }
    assert metrics <= PATTERNS.keys()
    text = "{'rouge1': 44.5, 'rougeL': '28.6', 'tokens_per_sample': 294.4}\nhash=ab12\n"
    assert read_accuracy(text) == ({"ROUGE1": 44.5, "ROUGEL": 28.6, "TOKENS_PER_SAMPLE": 294.4}, "ab12")
    cut = truncated(b"a" * 9000 + b"b" * 9000)
    assert (cut[:4096], cut[-4096:]) == (b"a" * 4096, b"b" * 4096)
    assert len(cut) < 10 * 1024


def test_a_kept_video_is_shown_as_mp4(tmp_path: Path) -> None:
    video_THWC = np.full((9, 48, 64, 3), 200, np.uint8)
    write_video(tmp_path / "a.mkv", video_THWC, 8)
    write_mp4(tmp_path / "a.mkv", tmp_path / "videos/3.mp4")
    shown_THWC = read_video(tmp_path / "videos/3.mp4")
    assert shown_THWC.shape == video_THWC.shape
    assert abs(int(shown_THWC.mean()) - 200) < 5


def test_the_command_says_that_nobody_verified_it(submit: Callable[..., Any]) -> None:
    root, _ = submit()
    done = CliRunner().invoke(command.app, ["submit", "--check", str(root)])
    assert done.stderr.splitlines()[-1] == UNVERIFIED
    line = json.loads(done.stdout.splitlines()[-1])
    assert (line["verdict"], line["verified_by_mlcommons"], line["notice"]) == ("OK", False, UNVERIFIED)
