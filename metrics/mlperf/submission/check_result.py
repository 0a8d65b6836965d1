"""Checks one result of an MLPerf submission: logs, accuracy and compliance tests, compared with the runs that it was made from."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict

from configs.decode import read_json
from configs.errors import ConfigError, PluginError
from metrics.mlperf.compliance.performance import compare_speed
from metrics.mlperf.compliance.results import read_verdicts
from metrics.mlperf.submission.files import MAX_LOG_BYTES, MEASUREMENTS, VIDEOS, evaluate_gates, read_accuracy, sha256
from metrics.mlperf.submission.write import LOGS, manifest_hash
from metrics.report.recompute import recompute
from metrics.validity.mlperf_rules import departures
from workloads.loadgen.load_test import read_summary
from workloads.loadgen.logs import LoadGenLog, read_detail
from workloads.mlperf.notices import differences_from_reference
from workloads.mlperf.rules import MIN_DURATION_S, Benchmark, ScenarioRules
from workloads.run_folder.manifest import modifications

ROUNDING = 1e-4  # between accuracy.txt and the value that is computed again
HARMLESS = "Multiple conf files"  # LoadGen logs this error in every compliance test, because audit.config is its second file


class Source(TypedDict):
    """The run that a test's logs are from. run, compliance: folders, relative to the submission. files: the hash of the run's manifest."""

    run: str
    files: str
    compliance: NotRequired[str]


class Sources(TypedDict, total=False):
    """runs.json. results: by folder of the result and test."""

    round: str
    results: dict[str, dict[str, Source]]


class Refusal(NamedTuple):
    """file: relative to the submission's folder; the containing folder if a file is missing."""

    file: str
    reason: str


class Result(NamedTuple):
    """One result: a benchmark in a scenario. runs: the run folder of each test, from DIR/runs.json."""

    root: Path
    folder: Path
    division: str
    benchmark: Benchmark
    rules: ScenarioRules
    runs: Mapping[str, Source]

    def refuse(self, name: str, reason: str) -> Refusal:
        return Refusal((self.folder / name).relative_to(self.root).as_posix(), reason)


def check_result(result: Result) -> Iterator[Refusal]:
    """Yield all refusals of the result."""
    for name in ("user.conf", "README.md"):
        if not (result.folder / name).is_file() or not (result.folder / name).stat().st_size:
            yield result.refuse(name, "missing or empty")
    fields = read_object(result.folder / "measurements.json")
    if fields is None:
        yield result.refuse("measurements.json", "missing, or not a JSON object")
    elif empty := [f for f in MEASUREMENTS if not fields.get(f)]:
        yield result.refuse("measurements.json", f"missing or empty fields: {', '.join(empty)}")
    yield from _check_runs(result)
    yield from _check_performance(result)
    yield from _check_accuracy(result)
    if result.division == "closed":
        for test in result.benchmark.compliance:
            yield from _check_compliance(result, test)


def _check_performance(result: Result) -> Iterator[Refusal]:
    name = "performance/run_1"
    yield from _check_logs(result, name, "performance")
    log = _log(result, name)
    if isinstance(log, Refusal):
        yield log
        return
    detail = f"{name}/mlperf_log_detail.txt"
    yield from _check_validity(result, name, log)
    for problem in departures(result.folder / name, result.benchmark, result.rules.scenario, "performance"):
        yield result.refuse(detail, problem)
    if log.score is None:
        yield result.refuse(detail, "LoadGen gives no score")
    duration_ns = log.values.get("result_max_latency_ns")
    if log.scenario == "Offline" and (duration_ns is None or duration_ns < MIN_DURATION_S * 1e9):
        yield result.refuse(detail, f"the run lasted {(duration_ns or 0) / 1e9:.1f} s; at least {MIN_DURATION_S:.0f} s are required")


def _check_validity(result: Result, name: str, log: LoadGenLog) -> Iterator[Refusal]:
    """Check LoadGen's own verdict in both of its files, and the conditions behind it."""
    verdict = read_summary(result.folder / name).get("Result is")
    if verdict != "VALID":
        yield result.refuse(f"{name}/mlperf_log_summary.txt", f"Result is : {verdict or 'missing'}")
    if not log.valid:
        yield result.refuse(f"{name}/mlperf_log_detail.txt", f"result_validity is {log.values.get('result_validity')}: {log.why_invalid}")
    conditions = {
        "result_min_duration_met": "the minimum duration was not met",
        "result_min_queries_met": "the minimum number of queries was not met",
        "result_perf_constraints_met": "the latency limits were not met",
        "early_stopping_met": "the conditions of early stopping were not met",
    }
    for key, problem in conditions.items():
        if log.values.get(key) is False:
            yield result.refuse(f"{name}/mlperf_log_detail.txt", problem)


def _check_accuracy(result: Result) -> Iterator[Refusal]:
    log = _log(result, "accuracy")
    if isinstance(log, Refusal):
        yield log
        return
    yield from _check_logs(result, "accuracy", "accuracy")
    for problem in departures(result.folder / "accuracy", result.benchmark, result.rules.scenario, "accuracy"):
        yield result.refuse("accuracy/mlperf_log_detail.txt", problem)
    file = result.folder / "accuracy/mlperf_log_accuracy.json"
    if not file.is_file() or not file.stat().st_size:
        yield result.refuse("accuracy/mlperf_log_accuracy.json", "missing or empty")
    elif file.stat().st_size > MAX_LOG_BYTES:
        yield result.refuse(
            "accuracy/mlperf_log_accuracy.json", f"{file.stat().st_size} bytes; at most {MAX_LOG_BYTES} are allowed: truncate it"
        )
    yield from _check_accuracy_text(result)
    if result.benchmark.workload == "t2v":
        missing = [i for i in VIDEOS.get(result.benchmark.round, ()) if not (result.folder / f"accuracy/videos/{i}.mp4").is_file()]
        if missing:
            yield result.refuse("accuracy/videos", f"missing videos: {', '.join(map(str, missing))}")


def _check_accuracy_text(result: Result) -> Iterator[Refusal]:
    """Check accuracy.txt against the gates and against the run's answers."""
    name = "accuracy/accuracy.txt"
    try:
        values, digest = read_accuracy((result.folder / name).read_text(encoding="utf-8", errors="replace"))
    except OSError:
        yield result.refuse(name, "missing")
        return
    run = _run(result, "accuracy")
    gates = {gate.figure: gate for gate in evaluate_gates(run)} if run else {}
    for gate in result.rules.gates if result.division == "closed" else ():
        value = values.get(gate.metric)
        if value is None:
            yield result.refuse(name, f"{gate.metric} is missing" + (f": {gates[gate.figure].why}" if gate.figure in gates else ""))
        elif gate.at_least is not None and value < gate.at_least:
            yield result.refuse(name, f"{gate.metric} is {value:.6g}; at least {gate.at_least:.6g} is required")
        elif gate.at_most is not None and value > gate.at_most:
            yield result.refuse(name, f"{gate.metric} is {value:.6g}; at most {gate.at_most:.6g} is allowed")
    if run is None:
        yield result.refuse(name, "cannot be computed again: runs.json names no existing run folder with these answers")
        return
    log = run / "accuracy/mlperf_log_accuracy.json"
    if digest is None or not log.is_file() or digest != sha256(log.read_bytes()):
        yield result.refuse(name, f"its hash, {digest}, is not the hash of the run's accuracy log")
    for gate in result.rules.gates:
        stated, computed = values.get(gate.metric), gates[gate.figure].value if gate.figure in gates else None
        if stated is not None and (computed is None or not math.isclose(stated, computed, rel_tol=ROUNDING, abs_tol=ROUNDING)):
            shown = f"{computed:.6g}" if computed is not None else "none" + (f": {gates[gate.figure].why}" if gate.figure in gates else "")
            yield result.refuse(name, f"{gate.metric} is stated as {stated:.6g}, but the run's answers give {shown}")


def _check_runs(result: Result) -> Iterator[Refusal]:
    """Check the verdicts of the runs, recomputed from their records and media, and that the runs were not modified."""
    reports = functools.cache(recompute)  # one folder may hold both tests
    for mode in ("performance", "accuracy"):
        run, file = _run(result, mode), ("performance/run_1" if mode == "performance" else "accuracy")
        if run is None:
            if mode == "performance":  # for accuracy, accuracy.txt is refused
                yield result.refuse(file, "cannot be compared with its run: runs.json names no existing run folder with these logs")
            continue
        reasons = [f"the run was modified after it finished: {change}" for change in modifications(run)]
        try:
            report = reports(run)
            if (rules := report.run.config.rules) != f"mlperf-{result.benchmark.round}":
                reasons.append(f"the run was made by rules {rules!r}; make it with --set rules=mlperf-{result.benchmark.round}")
            if result.division == "closed":
                differences = differences_from_reference(result.benchmark, report.run.config.pipeline_options)
                reasons += [f"not as the reference: {difference}" for difference in differences]
            if not report.valid:
                reasons += [f"the run is INVALID: {reason}" for reason in report.data["reasons"]]
        except (ConfigError, PluginError) as error:
            reasons.append(str(error))
        for reason in reasons:
            yield result.refuse(file, reason)


def _check_logs(result: Result, name: str, mode: str) -> Iterator[Refusal]:
    if (run := _run(result, mode)) is None:
        return
    for file in LOGS:
        original, copy = run / mode / file, result.folder / name / file
        if original.is_file() and copy.is_file() and original.read_bytes() != copy.read_bytes():
            yield result.refuse(f"{name}/{file}", "differs from the run's own log: it was modified")


def _check_compliance(result: Result, test: str) -> Iterator[Refusal]:
    folder = result.folder / test
    if reason := _reason_not_run(result, test):
        yield result.refuse(test, f"was not run: {reason}")
        return
    if not folder.is_dir():
        yield result.refuse(test, f"missing; run suite.py comply {_run(result, 'performance') or 'RUN'} and submit again")
        return
    files: dict[str, Sequence[str]] = {
        "TEST01": ("verify_accuracy.txt", "verify_performance.txt"),
        "TEST04": ("verify_performance.txt",),
        "TEST09": ("verify_output_len.txt",),
    }
    for file in files.get(test, ("verify_accuracy.txt",)):
        try:
            lines = {line.strip() for line in (folder / file).read_text(encoding="utf-8", errors="replace").splitlines()}
        except OSError:
            yield result.refuse(f"{test}/{file}", "missing")
            continue
        if test == "TEST06":
            required = ("EOS check pass: True", "Sample length check pass: True")
            if not lines.issuperset(required) or not lines & {"First token check pass: True", "First token check pass: Skipped"}:
                yield result.refuse(f"{test}/{file}", "the test failed")
        elif "TEST PASS" not in lines:
            yield result.refuse(f"{test}/{file}", "the test failed")
    log = _log(result, f"{test}/performance/run_1")
    if isinstance(log, Refusal):
        yield log
        return
    if test in ("TEST01", "TEST04"):
        yield from _check_validity(result, f"{test}/performance/run_1", log)
        before = _log(result, "performance/run_1")
        if isinstance(before, LoadGenLog) and before.valid and log.valid:
            _, problem = compare_speed(before, log, both_ways=test == "TEST01")  # by the official rule, without controls
            if problem:
                yield result.refuse(f"{test}/verify_performance.txt", problem)
    if errors := [error for error in log.errors if HARMLESS not in error]:
        yield result.refuse(f"{test}/performance/run_1/mlperf_log_detail.txt", f"LoadGen logged {len(errors)} errors, first: {errors[0]}")
    if test == "TEST04" and not log.values.get("effective_performance_issue_same"):
        yield result.refuse(
            f"{test}/performance/run_1/mlperf_log_detail.txt", "its settings were not effective: LoadGen issued other samples"
        )


def _reason_not_run(result: Result, test: str) -> str:
    """Why `suite.py comply` could not run the test; empty if it could, or if comply itself was not run."""
    source = result.runs.get("performance")
    folder = source.get("compliance") if source else None
    try:
        tests = read_verdicts(result.root / folder)["tests"] if folder else {}
    except ConfigError:
        return ""
    return tests[test]["told"] if test in tests and tests[test]["result"] == "not held" else ""


def _log(result: Result, name: str) -> LoadGenLog | Refusal:
    for file in LOGS:
        if not (result.folder / name / file).is_file():
            return result.refuse(f"{name}/{file}", "missing")
    try:
        return read_detail(result.folder / name / "mlperf_log_detail.txt")
    except ConfigError as error:
        return result.refuse(f"{name}/mlperf_log_detail.txt", str(error))


def _run(result: Result, mode: str) -> Path | None:
    source = result.runs.get(mode)
    return run_folder(result.root, source) if source else None


def run_folder(root: Path, source: Source) -> Path | None:
    """The run folder of a test, if it exists and has the same files as when the submission was written."""
    folder = (root / source["run"]).resolve()
    if not (folder / "config.yaml").is_file():
        return None
    try:
        return folder if manifest_hash(folder) == source["files"] else None
    except ConfigError:
        return None


def read_object(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None if the file is missing or holds anything else."""
    try:
        return read_json(path, dict[str, Any])
    except ConfigError:
        return None
