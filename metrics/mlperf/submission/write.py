"""An MLPerf submission: the directory that the official checker reads, made from run folders.

DIR/{closed|open}/SUBMITTER/
  systems/SYSTEM.json
  src/                                        how to make the runs again: their configurations, and the suite's commit
  results/SYSTEM/BENCHMARK/SCENARIO/
    measurements.json, user.conf, README.md
    performance/run_1/mlperf_log_*.txt
    accuracy/mlperf_log_*.txt, accuracy.txt, mlperf_log_accuracy.json (both ends of it), videos/ID.mp4 of Wan
    TESTxx/                                   as `suite.py comply` left it
DIR/runs.json                                 which run folders each result is of; the official checker does not look at it
metrics/mlperf/submission/check.py judges what comes out.
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
    held_gates,
    measurements,
    sha256,
    truncated,
    user_conf,
    write_mp4,
)
from metrics.mlperf.submission.system import describe as describe_system
from metrics.mlperf.submission.system import num_devices, of_all, read_told
from metrics.report.load_run import load_run
from pipelines.launcher.provenance import suite_commit
from workloads.mlperf.benchmarks import benchmark
from workloads.mlperf.notices import differences_from_reference
from workloads.mlperf.rules import Benchmark
from workloads.mlperf.run_rules import embedded_round
from workloads.run_folder.files import write_json, write_text
from workloads.run_folder.manifest import read_manifest

LOGS = ("mlperf_log_summary.txt", "mlperf_log_detail.txt")


class Result(NamedTuple):
    """One benchmark in one scenario: the runs that its performance and its accuracy are of, where there are any."""

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
    """The directory, written anew. Raises ConfigError for what cannot become a submission at all; the rest is for the check to say.

    describe: a JSON file with fields of the system's description that the suite cannot know, such as the cooling. Refused are fields that
    contradict what was measured, and runs of unlike hardware. compliance: what `comply --output` wrote; RUN-compliance is found without.
    """
    for what, name in (("--submitter", submitter), ("--system", system or "x")):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
            raise ConfigError(f"{what} {name!r} becomes the name of a folder: letters, digits, '_', '.' and '-' only")
    if output.exists() and any(output.iterdir()):
        raise ConfigError(f"{str(output)!r} is not empty; give --output another folder, or remove it")
    loaded = [load_run(folder) for folder in runs]
    results = results_of(loaded, round_ or embedded_round())
    known = of_all(loaded)
    tests = compliance_of(loaded, compliance)
    name = system or _system_name(loaded, known)
    given = {"division": division, "submitter": submitter, "system_name": name}
    described = describe_system(known, given, read_told(describe) if describe else {})
    base = output / division / submitter
    (base / "systems").mkdir(parents=True)
    (base / "src").mkdir()
    write_json(base / "systems" / f"{name}.json", described)
    sources: dict[str, dict[str, Any]] = {}
    for result in results:
        folder = base / "results" / name / result.benchmark.name / FOLDERS[result.scenario]
        held = tests.get(result.performance.folder) if result.performance else None
        _write_result(result, held, folder, base / "src")
        sources[folder.relative_to(output).as_posix()] = _sources(result, held, output)
    write_text(base / "src/README.md", _how_to_repeat(results))
    write_json(output / "runs.json", {"round": results[0].benchmark.round, "results": sources})
    return output


def results_of(runs: Sequence[Run], round_: str) -> list[Result]:
    """Runs put together: of each benchmark and scenario one performance and one accuracy test. Raises ConfigError where there are two."""
    found: dict[tuple[str, str], dict[str, Run]] = {}
    for run in runs:
        if run.config.benchmark is None:
            raise ConfigError(f"run {str(run.folder)!r} is of no MLPerf benchmark: make it with --set benchmark=NAME")
        if run.config.scenario not in FOLDERS:
            raise ConfigError(f"run {str(run.folder)!r} is of scenario {run.config.scenario!r}, which MLPerf does not submit")
        tests = found.setdefault((run.config.benchmark, run.config.scenario), {})
        for mode in run.outcome:
            if mode in tests:
                raise ConfigError(
                    f"runs {str(tests[mode].folder)!r} and {str(run.folder)!r} both hold the {mode} test of {run.config.benchmark} "
                    f"{run.config.scenario}; give one of them"
                )
            tests[mode] = run
    if not any(found.values()):
        raise ConfigError("none of the runs has ended a test; there is nothing to submit")
    return [
        Result(benchmark(name, round_), scenario, tests.get("performance"), tests.get("accuracy"))
        for (name, scenario), tests in found.items()
        if tests
    ]


def compliance_of(runs: Sequence[Run], given: Sequence[Path]) -> dict[Path, Path]:
    """Where the compliance tests of each run lie, by its folder: one of those given, or beside it. They tell whose they are.

    Raises ConfigError where one that is given is of none of the runs, and where the one beside a run is of another.
    """
    logs = {run.folder: performance_log_hash(run.folder) for run in runs if "performance" in run.outcome}
    found: dict[Path, Path] = {}
    for folder in given:
        whose = str(read_verdicts(folder)["log"])
        if whose not in logs.values():
            raise ConfigError(
                f"--compliance {str(folder)!r} holds the tests of none of these runs: give their own, as comply --output wrote it"
            )
        found |= {run: folder for run, log in logs.items() if log == whose}
    for run, log in logs.items():
        beside = folder_beside(run)
        if run in found or not beside.is_dir():
            continue
        if read_verdicts(beside)["log"] != log:
            raise ConfigError(
                f"{str(beside)!r} holds the tests of another run that was called so: remove it, and run suite.py comply {run}"
            )
        found[run] = beside
    return found


def _write_result(result: Result, compliance: Path | None, folder: Path, src: Path) -> None:
    run = result.performance or result.accuracy
    assert run is not None
    folder.mkdir(parents=True)
    write_json(folder / "measurements.json", measurements(run))
    own_conf = run.folder / "performance/user.conf"
    write_text(folder / "user.conf", own_conf.read_text(encoding="utf-8") if own_conf.is_file() else user_conf(run, result.scenario))
    told = differences_from_reference(result.benchmark, run.config.pipeline_options)
    title = f"# {result.benchmark.name}, {FOLDERS[result.scenario]}\n\nHow it was run: src/README.md.\n"
    write_text(folder / "README.md", title + "".join(f"\nNot as the reference: {note}.\n" for note in told))
    if result.performance:
        _copy_logs(result.performance.folder / "performance", folder / "performance/run_1")
        if compliance is not None:
            _copy_compliance(compliance, result.benchmark, folder)
    if result.accuracy:
        _write_accuracy(result, result.accuracy, folder / "accuracy")
    for mode, made in (("performance", result.performance), ("accuracy", result.accuracy)):
        if made is not None:
            shutil.copyfile(made.folder / "config.yaml", src / f"{result.benchmark.name}-{FOLDERS[result.scenario]}-{mode}.yaml")


def _write_accuracy(result: Result, run: Run, folder: Path) -> None:
    _copy_logs(run.folder / "accuracy", folder)
    log = run.folder / "accuracy/mlperf_log_accuracy.json"
    content = log.read_bytes() if log.is_file() else b""
    (folder / "mlperf_log_accuracy.json").write_bytes(truncated(content))
    gates = result.benchmark.of(result.scenario).gates if _known(result) else ()
    write_text(folder / "accuracy.txt", accuracy_text(held_gates(run.folder), gates, sha256(content)))
    if run.workload.unit == "frames":
        by_sample = {r.sample_index: r.media for r in run.judged if r.media}
        for number in VIDEOS.get(result.benchmark.round, ()):
            if number in by_sample and (source := run.folder / str(by_sample[number])).is_file():
                write_mp4(source, folder / f"videos/{number}.mp4")


def _known(result: Result) -> bool:
    return any(s.scenario == result.scenario for s in result.benchmark.scenarios)


def _copy_logs(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for name in LOGS:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def _copy_compliance(compliance: Path, found: Benchmark, folder: Path) -> None:
    """TESTxx as `comply` left them; an accuracy log that is too long is cut, and its hash added to what the test says."""
    for test in found.compliance:
        source = compliance / test
        if not source.is_dir():
            continue
        shutil.copytree(source, folder / test)
        log = folder / test / "accuracy/mlperf_log_accuracy.json"
        if log.is_file() and log.stat().st_size > MAX_LOG_BYTES:
            content = log.read_bytes()
            log.write_bytes(truncated(content))
            for verified in (folder / test).glob("verify_*.txt"):
                with verified.open("a", encoding="utf-8") as file:
                    file.write(f"hash={sha256(content)}\n")


def _sources(result: Result, compliance: Path | None, output: Path) -> dict[str, Any]:
    """Run folders by test, from the submission's own place, with the hash of what each manifest says of its files."""
    runs = {"performance": result.performance, "accuracy": result.accuracy}
    found = {
        mode: {"run": os.path.relpath(run.folder.resolve(), output.resolve()), "files": manifest_hash(run.folder)}
        for mode, run in runs.items()
        if run is not None
    }
    if compliance is not None:
        found["performance"]["compliance"] = os.path.relpath(compliance.resolve(), output.resolve())
    return found


def manifest_hash(run: Path) -> str:
    """Of the hashes of the run's files. Raises ConfigError where there is no manifest."""
    try:
        return sha256(json.dumps(read_manifest(run)["files"], sort_keys=True).encode())
    except ValueError as error:
        raise ConfigError(f"run {str(run)!r}: {error}") from None


def _how_to_repeat(results: Sequence[Result]) -> str:
    lines = [f"Made with Triptych, commit {suite_commit() or 'unknown'}. In its checkout, on as many ranks as the results tell:", ""]
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
