"""One result of an MLPerf submission: its logs, its accuracy and its compliance tests, compared with the runs that it was made from."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from configs.errors import ConfigError
from metrics.mlperf.compliance.performance import compare_speed
from metrics.mlperf.submission.files import MAX_LOG_BYTES, MEASUREMENTS, VIDEOS, held_gates, read_accuracy, sha256
from metrics.mlperf.submission.write import LOGS, manifest_hash
from metrics.report.report import load_report
from metrics.validity.mlperf_rules import departures
from workloads.loadgen.load_test import read_summary
from workloads.loadgen.logs import LoadGenLog, read_detail
from workloads.mlperf.notices import differences_from_reference
from workloads.mlperf.rules import MIN_DURATION_S, Benchmark, ScenarioRules
from workloads.run_folder.manifest import modifications

ROUNDING = 1e-4  # between accuracy.txt and what is computed again
FORGIVEN = "Multiple conf files"  # LoadGen says so of every compliance test: audit.config is its second file


class Refusal(NamedTuple):
    """file: in the submission's folder, or the folder that lacks it."""

    file: str
    reason: str


class Place(NamedTuple):
    """A result in the tree. runs: the run folders that it is of, by test, as DIR/runs.json has them."""

    root: Path
    folder: Path
    division: str
    benchmark: Benchmark
    rules: ScenarioRules
    runs: Mapping[str, Mapping[str, str]]

    def refuse(self, name: str, reason: str) -> Refusal:
        return Refusal((self.folder / name).relative_to(self.root).as_posix(), reason)


def check_result(place: Place) -> Iterator[Refusal]:
    for name in ("user.conf", "README.md"):
        if not (place.folder / name).is_file() or not (place.folder / name).stat().st_size:
            yield place.refuse(name, "missing or empty")
    fields = read_object(place.folder / "measurements.json")
    if fields is None:
        yield place.refuse("measurements.json", "missing or no JSON")
    elif empty := [f for f in MEASUREMENTS if not fields.get(f)]:
        yield place.refuse("measurements.json", f"fields that are missing or say nothing: {', '.join(empty)}")
    yield from _own_runs(place)
    yield from _performance(place)
    yield from _accuracy(place)
    if place.division == "closed":
        for test in place.benchmark.compliance:
            yield from _compliance(place, test)


def _performance(place: Place) -> Iterator[Refusal]:
    name = "performance/run_1"
    yield from _same_logs(place, name, "performance")
    log = _log(place, name)
    if isinstance(log, Refusal):
        yield log
        return
    detail = f"{name}/mlperf_log_detail.txt"
    yield from _valid(place, name, log)
    for told in departures(place.folder / name, place.benchmark, place.rules.scenario, "performance"):
        yield place.refuse(detail, told)
    if log.score is None:
        yield place.refuse(detail, "LoadGen gives no score")
    lasted_ns = log.values.get("result_max_latency_ns")
    if log.scenario == "Offline" and (lasted_ns is None or lasted_ns < MIN_DURATION_S * 1e9):
        yield place.refuse(detail, f"the run lasted {(lasted_ns or 0) / 1e9:.1f} s, {MIN_DURATION_S:.0f} are asked")


def _valid(place: Place, name: str, log: LoadGenLog) -> Iterator[Refusal]:
    """LoadGen's own verdict, in both of its files, and what it rests on."""
    said = read_summary(place.folder / name).get("Result is")
    if said != "VALID":
        yield place.refuse(f"{name}/mlperf_log_summary.txt", f"Result is : {said or 'not told'}")
    if not log.valid:
        yield place.refuse(f"{name}/mlperf_log_detail.txt", f"result_validity is {log.values.get('result_validity')}: {log.why_invalid}")
    met = {"result_min_duration_met": "the minimum duration", "result_min_queries_met": "the minimum number of queries"}
    met |= {"result_perf_constraints_met": "the latency limits", "early_stopping_met": "early stopping's conditions"}
    for key, what in met.items():
        if log.values.get(key) is False:
            yield place.refuse(f"{name}/mlperf_log_detail.txt", f"{what} were not met" if what.endswith("s") else f"{what} was not met")


def _accuracy(place: Place) -> Iterator[Refusal]:
    log = _log(place, "accuracy")
    if isinstance(log, Refusal):
        yield log
        return
    yield from _same_logs(place, "accuracy", "accuracy")
    for told in departures(place.folder / "accuracy", place.benchmark, place.rules.scenario, "accuracy"):
        yield place.refuse("accuracy/mlperf_log_detail.txt", told)
    kept = place.folder / "accuracy/mlperf_log_accuracy.json"
    if not kept.is_file() or not kept.stat().st_size:
        yield place.refuse("accuracy/mlperf_log_accuracy.json", "missing or empty")
    elif kept.stat().st_size > MAX_LOG_BYTES:
        yield place.refuse("accuracy/mlperf_log_accuracy.json", f"{kept.stat().st_size} bytes, at most {MAX_LOG_BYTES}: not truncated")
    yield from _accuracy_text(place)
    if place.benchmark.workload == "t2v":
        missing = [i for i in VIDEOS.get(place.benchmark.round, ()) if not (place.folder / f"accuracy/videos/{i}.mp4").is_file()]
        if missing:
            yield place.refuse("accuracy/videos", f"without the videos {', '.join(map(str, missing))}")


def _accuracy_text(place: Place) -> Iterator[Refusal]:
    """accuracy.txt against the gates, and against the answers."""
    name = "accuracy/accuracy.txt"
    try:
        values, digest = read_accuracy((place.folder / name).read_text(encoding="utf-8"))
    except OSError:
        yield place.refuse(name, "missing")
        return
    run = _run(place, "accuracy")
    held = {gate.figure: gate for gate in held_gates(run)} if run else {}
    for gate in place.rules.gates if place.division == "closed" else ():
        value = values.get(gate.metric)
        if value is None:
            yield place.refuse(name, f"{gate.metric} is not told" + (f": {held[gate.figure].why}" if gate.figure in held else ""))
        elif gate.at_least is not None and value < gate.at_least:
            yield place.refuse(name, f"{gate.metric} is {value:.6g}, at least {gate.at_least:.6g} is asked")
        elif gate.at_most is not None and value > gate.at_most:
            yield place.refuse(name, f"{gate.metric} is {value:.6g}, at most {gate.at_most:.6g} is asked")
    if run is None:
        yield place.refuse(name, "cannot be computed again: runs.json names no run folder that is there and has these answers")
        return
    full = run / "accuracy/mlperf_log_accuracy.json"
    if digest is None or not full.is_file() or digest != sha256(full.read_bytes()):
        yield place.refuse(name, f"its hash is {digest}, which is not that of the run's accuracy log")
    for gate in place.rules.gates:
        told, own = values.get(gate.metric), held[gate.figure].value if gate.figure in held else None
        if told is not None and (own is None or not math.isclose(told, own, rel_tol=ROUNDING, abs_tol=ROUNDING)):
            shown = f"{own:.6g}" if own is not None else "none" + (f": {held[gate.figure].why}" if gate.figure in held else "")
            yield place.refuse(name, f"{gate.metric} is told as {told:.6g}, and the run's answers give {shown}")


def _own_runs(place: Place) -> Iterator[Refusal]:
    """What the runs' own reports say, and whether they are as they were left."""
    for mode in ("performance", "accuracy"):
        run, shown = _run(place, mode), ("performance/run_1" if mode == "performance" else "accuracy")
        if run is None:
            if mode == "performance":  # of accuracy, accuracy.txt is refused
                yield place.refuse(shown, "cannot be held against its run: runs.json names no run folder that is there and has these logs")
            continue
        reasons = [f"the run was modified after it finished: {change}" for change in modifications(run)]
        try:
            report = load_report(run)
            if (rules := report.run.config.rules) != f"mlperf-{place.benchmark.round}":
                reasons.append(f"the run was made by rules {rules!r}: make it with --set rules=mlperf-{place.benchmark.round}")
            if place.division == "closed":
                told = differences_from_reference(place.benchmark, report.run.config.pipeline_options)
                reasons += [f"not as the reference: {note}" for note in told]
            if not report.valid:
                reasons += [f"the run is INVALID by its own report: {told}" for told in report.data["reasons"]]
        except ConfigError as error:
            reasons.append(str(error))
        for reason in reasons:
            yield place.refuse(shown, reason)


def _same_logs(place: Place, name: str, mode: str) -> Iterator[Refusal]:
    if (run := _run(place, mode)) is None:
        return
    for file in LOGS:
        own, kept = run / mode / file, place.folder / name / file
        if own.is_file() and kept.is_file() and own.read_bytes() != kept.read_bytes():
            yield place.refuse(f"{name}/{file}", "is not the run's own log: it was changed")


def _compliance(place: Place, test: str) -> Iterator[Refusal]:
    folder = place.folder / test
    if why := _not_held(place, test):
        yield place.refuse(test, f"was not held: {why}")
        return
    if not folder.is_dir():
        yield place.refuse(test, f"missing: run suite.py comply {_run(place, 'performance') or 'RUN'} and submit again")
        return
    wanted: dict[str, Sequence[str]] = {
        "TEST01": ("verify_accuracy.txt", "verify_performance.txt"),
        "TEST04": ("verify_performance.txt",),
        "TEST09": ("verify_output_len.txt",),
    }
    for file in wanted.get(test, ("verify_accuracy.txt",)):
        try:
            lines = {line.strip() for line in (folder / file).read_text(encoding="utf-8").splitlines()}
        except OSError:
            yield place.refuse(f"{test}/{file}", "missing")
            continue
        if test == "TEST06":
            asked = ("EOS check pass: True", "Sample length check pass: True")
            if not lines.issuperset(asked) or not lines & {"First token check pass: True", "First token check pass: Skipped"}:
                yield place.refuse(f"{test}/{file}", "the test does not hold")
        elif "TEST PASS" not in lines:
            yield place.refuse(f"{test}/{file}", "the test does not hold")
    log = _log(place, f"{test}/performance/run_1")
    if isinstance(log, Refusal):
        yield log
        return
    if test in ("TEST01", "TEST04"):
        yield from _valid(place, f"{test}/performance/run_1", log)
        before = _log(place, "performance/run_1")
        if isinstance(before, LoadGenLog) and before.valid and log.valid:
            _, wrong = compare_speed(before, log, both_ways=test == "TEST01")  # by the official rule, whatever the run was content with
            if wrong:
                yield place.refuse(f"{test}/verify_performance.txt", wrong)
    if errors := [error for error in log.errors if FORGIVEN not in error]:
        yield place.refuse(f"{test}/performance/run_1/mlperf_log_detail.txt", f"LoadGen logged {len(errors)} errors, first: {errors[0]}")
    if test == "TEST04" and not log.values.get("effective_performance_issue_same"):
        yield place.refuse(f"{test}/performance/run_1/mlperf_log_detail.txt", "its settings were not in force: other samples were asked")


def _not_held(place: Place, test: str) -> str:
    """Why `suite.py comply` could not hold the test; empty where it could, or was not run."""
    told = place.runs.get("performance", {}).get("compliance")
    found = read_object(place.root / told / "comply.json") if told else None
    one = found["tests"].get(test, {}) if found and isinstance(found.get("tests"), dict) else {}
    return str(one.get("told")) if one.get("result") == "not held" else ""


def _log(place: Place, name: str) -> LoadGenLog | Refusal:
    for file in LOGS:
        if not (place.folder / name / file).is_file():
            return place.refuse(f"{name}/{file}", "missing")
    try:
        return read_detail(place.folder / name / "mlperf_log_detail.txt")
    except ConfigError as error:
        return place.refuse(f"{name}/mlperf_log_detail.txt", str(error))


def _run(place: Place, mode: str) -> Path | None:
    """The run folder of that test, if it is there and has the files that it had when the submission was written."""
    told = place.runs.get(mode)
    return run_folder(place.root, told) if told else None


def run_folder(root: Path, told: Mapping[str, str]) -> Path | None:
    folder = (root / str(told["run"])).resolve()
    if not (folder / "config.yaml").is_file():
        return None
    try:
        return folder if manifest_hash(folder) == told["files"] else None
    except ConfigError:
        return None


def read_object(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
