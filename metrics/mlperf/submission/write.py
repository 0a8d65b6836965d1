"""Writes an MLPerf submission, the directory that the official checker reads, from run folders.

DIR/{closed|open}/SUBMITTER/
  systems/SYSTEM.json
  src/                                        how to repeat the runs: their configurations, and the suite's commit
  results/SYSTEM/BENCHMARK/SCENARIO/
    measurements.json, user.conf, README.md
    performance/run_1/mlperf_log_*.txt
    accuracy/mlperf_log_*.txt, accuracy.txt, mlperf_log_accuracy.json (truncated), videos/ID.mp4 of Wan
    TESTxx/                                   as `suite.py comply` wrote it
DIR/runs.json                                 the run folders of each result; the official checker ignores it
metrics/mlperf/submission/check.py checks the result.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from configs.errors import ConfigError
from metrics.base import Run
from metrics.mlperf.compliance.results import folder_beside, performance_log_hash, read_verdicts
from metrics.mlperf.submission.files import (
    FOLDERS,
    MAX_LOG_BYTES,
    VIDEOS,
    accuracy_text,
    evaluate_gates,
    measurements,
    sha256,
    truncate,
    user_conf,
    write_mp4,
)
from metrics.mlperf.submission.system import describe as describe_system
from metrics.mlperf.submission.system import measure_system, num_devices, read_description
from metrics.report.load_run import load_run
from pipelines.launcher.provenance import suite_commit
from workloads.mlperf.benchmarks import benchmark
from workloads.mlperf.notices import differences_from_reference
from workloads.mlperf.rules import Benchmark
from workloads.mlperf.run_rules import embedded_round
from workloads.run_folder.files import write_json, write_text
from workloads.run_folder.manifest import read_manifest

LOGS = ("mlperf_log_summary.txt", "mlperf_log_detail.txt")


class ResultRuns(NamedTuple):
    """The runs of one benchmark in one scenario: of its performance test and of its accuracy test, if there are any."""

    benchmark: Benchmark
    scenario: str
    performance: Run | None
    accuracy: Run | None


def write_submission(
    runs: Sequence[Path],
    submitter: str,
    division: str,
    round_: str | None,
    system: str | None,
    describe: Path | None,
    output: Path,
    compliance: Sequence[Path] = (),
) -> Path:
    """Write the directory. Raises ConfigError for runs that cannot become a submission at all; the check reports everything else.

    describe: a JSON file with fields of the system's description that the suite cannot measure, such as the cooling. Fields that contradict
    the measurements are refused, and so are runs made on different hardware. compliance: folders that `comply --output` wrote;
    RUN-compliance is used without naming it.
    """
    for what, name in (("--submitter", submitter), ("--system", system or "x")):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
            raise ConfigError(f"{what} {name!r} cannot name a folder: use letters, digits, '_', '.' and '-' only.")
    if output.exists() and any(output.iterdir()):
        raise ConfigError(f"{str(output)!r} is not empty. Remove it, or choose another folder with --output.")
    loaded = [load_run(folder) for folder in runs]
    results = results_of(loaded, round_ or embedded_round())
    known = measure_system(loaded)
    tests = compliance_of(loaded, compliance)
    name = system or _system_name(loaded, known)
    given = {"division": division, "submitter": submitter, "system_name": name}
    description = describe_system(known, given, read_description(describe) if describe else {})
    base = output / division / submitter
    (base / "systems").mkdir(parents=True)
    (base / "src").mkdir()
    write_json(base / "systems" / f"{name}.json", description)
    sources: dict[str, dict[str, Any]] = {}
    for result in results:
        folder = base / "results" / name / result.benchmark.name / FOLDERS[result.scenario]
        own_tests = tests.get(result.performance.folder) if result.performance else None
        _write_result(result, own_tests, folder, base / "src")
        sources[folder.relative_to(output).as_posix()] = _sources(result, own_tests, output)
    write_text(base / "src/README.md", _how_to_repeat(results))
    write_json(output / "runs.json", {"round": results[0].benchmark.round, "results": sources})
    return output


def results_of(runs: Sequence[Run], round_: str) -> list[ResultRuns]:
    """Group runs by benchmark and scenario: one performance and one accuracy test each. Raises ConfigError if there are two."""
    groups: dict[tuple[str, str], dict[str, Run]] = {}
    for run in runs:
        if run.config.benchmark is None:
            raise ConfigError(f"run {str(run.folder)!r} is of no MLPerf benchmark. Make it with --set benchmark=NAME.")
        if run.config.scenario not in FOLDERS:
            raise ConfigError(f"run {str(run.folder)!r} is of scenario {run.config.scenario!r}, which has no place in a submission.")
        tests = groups.setdefault((run.config.benchmark, run.config.scenario), {})
        for mode in run.outcome:
            if mode in tests:
                raise ConfigError(
                    f"runs {str(tests[mode].folder)!r} and {str(run.folder)!r} both hold the {mode} test of {run.config.benchmark} "
                    f"{run.config.scenario}. Give one of them."
                )
            tests[mode] = run
    if not any(groups.values()):
        raise ConfigError("none of the runs finished a test, so there is nothing to submit.")
    return [
        ResultRuns(benchmark(name, round_), scenario, tests.get("performance"), tests.get("accuracy"))
        for (name, scenario), tests in groups.items()
        if tests
    ]


def compliance_of(runs: Sequence[Run], given: Sequence[Path]) -> dict[Path, Path]:
    """The folder of each run's compliance tests: one of those given, or RUN-compliance. comply.json says which run they belong to.

    Raises ConfigError if a folder that is given belongs to none of the runs, or if RUN-compliance belongs to another run.
    """
    logs = {run.folder: performance_log_hash(run.folder) for run in runs if "performance" in run.outcome}
    folders: dict[Path, Path] = {}
    for folder in given:
        own_log = read_verdicts(folder)["log"]
        if own_log not in logs.values():
            raise ConfigError(
                f"--compliance {str(folder)!r} holds the tests of none of these runs. Give folders that comply --output wrote."
            )
        folders |= {run: folder for run, log in logs.items() if log == own_log}
    for run, log in logs.items():
        beside = folder_beside(run)
        if run in folders or not beside.is_dir():
            continue
        if read_verdicts(beside)["log"] != log:
            raise ConfigError(f"{str(beside)!r} holds the tests of another run of the same name. Remove it, and run suite.py comply {run}.")
        folders[run] = beside
    return folders


def _write_result(result: ResultRuns, compliance: Path | None, folder: Path, src: Path) -> None:
    run = result.performance or result.accuracy
    assert run is not None
    folder.mkdir(parents=True)
    write_json(folder / "measurements.json", measurements(run))
    own_conf = run.folder / "performance/user.conf"
    write_text(
        folder / "user.conf",
        own_conf.read_text(encoding="utf-8", errors="replace") if own_conf.is_file() else user_conf(run, result.scenario),
    )
    differences = differences_from_reference(result.benchmark, run.config.pipeline_options)
    title = f"# {result.benchmark.name}, {FOLDERS[result.scenario]}\n\nHow it was run: src/README.md.\n"
    write_text(folder / "README.md", title + "".join(f"\nNot as the reference: {note}.\n" for note in differences))
    if result.performance:
        _copy_logs(result.performance.folder / "performance", folder / "performance/run_1")
        if compliance is not None:
            _copy_compliance(compliance, result.benchmark, folder)
    if result.accuracy:
        _write_accuracy(result, result.accuracy, folder / "accuracy")
    for mode, made in (("performance", result.performance), ("accuracy", result.accuracy)):
        if made is not None:
            shutil.copyfile(made.folder / "config.yaml", src / f"{result.benchmark.name}-{FOLDERS[result.scenario]}-{mode}.yaml")


def _write_accuracy(result: ResultRuns, run: Run, folder: Path) -> None:
    _copy_logs(run.folder / "accuracy", folder)
    log = run.folder / "accuracy/mlperf_log_accuracy.json"
    content = log.read_bytes() if log.is_file() else b""
    (folder / "mlperf_log_accuracy.json").write_bytes(truncate(content))
    gates = result.benchmark.of(result.scenario).gates if _known(result) else ()
    write_text(folder / "accuracy.txt", accuracy_text(evaluate_gates(run.folder), gates, sha256(content)))
    if run.workload.unit == "frames":
        by_sample = {r.sample_index: r.media for r in run.judged if r.media}
        for number in VIDEOS.get(result.benchmark.round, ()):
            if number in by_sample and (source := run.folder / str(by_sample[number])).is_file():
                write_mp4(source, folder / f"videos/{number}.mp4")


def _known(result: ResultRuns) -> bool:
    return any(s.scenario == result.scenario for s in result.benchmark.scenarios)


def _copy_logs(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for name in LOGS:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def _copy_compliance(compliance: Path, rules: Benchmark, folder: Path) -> None:
    """Copy TESTxx as `comply` wrote them. An accuracy log that is too long is truncated, and its hash is added to the test's result."""
    for test in rules.compliance:
        source = compliance / test
        if not source.is_dir():
            continue
        shutil.copytree(source, folder / test)
        log = folder / test / "accuracy/mlperf_log_accuracy.json"
        if log.is_file() and log.stat().st_size > MAX_LOG_BYTES:
            content = log.read_bytes()
            log.write_bytes(truncate(content))
            for verified in (folder / test).glob("verify_*.txt"):
                with verified.open("a", encoding="utf-8") as file:
                    file.write(f"hash={sha256(content)}\n")


def _sources(result: ResultRuns, compliance: Path | None, output: Path) -> dict[str, Any]:
    """Run folders by test, relative to the submission, each with the hash of its manifest's files."""
    runs = {"performance": result.performance, "accuracy": result.accuracy}
    sources = {
        mode: {"run": os.path.relpath(run.folder.resolve(), output.resolve()), "files": manifest_hash(run.folder)}
        for mode, run in runs.items()
        if run is not None
    }
    if compliance is not None:
        sources["performance"]["compliance"] = os.path.relpath(compliance.resolve(), output.resolve())
    return sources


def manifest_hash(run: Path) -> str:
    """A hash over the hashes of the run's files. Raises ConfigError if there is no manifest."""
    try:
        return sha256(json.dumps(read_manifest(run)["files"], sort_keys=True).encode())
    except ValueError as error:
        raise ConfigError(f"run {str(run)!r}: {error}") from None


def _how_to_repeat(results: Sequence[ResultRuns]) -> str:
    lines = [f"Made with Triptych, commit {suite_commit() or 'unknown'}. In its checkout, on as many ranks as in the results:", ""]
    for result in results:
        for mode, run in (("performance", result.performance), ("accuracy", result.accuracy)):
            if run is not None:
                file = f"src/{result.benchmark.name}-{FOLDERS[result.scenario]}-{mode}.yaml"
                lines.append(f"    accelerate launch suite.py --config {file} --mode {mode}")
    return "\n".join(lines) + "\n"


def _system_name(runs: Sequence[Run], known: Mapping[str, str]) -> str:
    has_any = known["accelerators_per_node"] != "0"
    model = known["accelerator_model_name" if has_any else "host_processor_model_name"]
    return f"{max(map(num_devices, runs))}x{re.sub(r'[^A-Za-z0-9.]+', '-', model).strip('-')}"
