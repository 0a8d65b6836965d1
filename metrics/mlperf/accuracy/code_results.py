"""Runs the programs in a run's answers against their tests, for `suite.py run-code RUN`.

Verdicts are written to code_results.json in the run folder, with the hash of each program, and to the manifest. A report only reads them
and never runs a program, so that a run from elsewhere can be scored again safely.
"""

from __future__ import annotations

import functools
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from configs.decode import read_json
from configs.errors import ConfigError
from metrics.base import Run
from metrics.mlperf.accuracy.reasoning_answers import deepseek_program, gpt_oss_program
from metrics.mlperf.accuracy.sandbox.run_tests import STRONG, Limits, Outcome, isolation, run_tests, still_open
from workloads.mlperf.livecodebench import Problem, problem_of, read_problems
from workloads.records import Record
from workloads.run_folder.files import write_json
from workloads.run_folder.manifest import add_file, modifications

FILE = "code_results.json"
SCHEMA = "triptych-code-results/1"
KIND = "livecodebench"


class ProgramVerdict(msgspec.Struct):
    """program: its hash. why: the first test that it failed."""

    program: str
    passed: bool
    why: str = ""


class CodeResults(msgspec.Struct):
    """code_results.json, as far as it is read. verdicts: by query."""

    schema: str
    verdicts: dict[str, ProgramVerdict]


class Summary(NamedTuple):
    """Counts of answers with a program. untested: programs whose tests are missing. isolation: the sandbox's layers."""

    passed: int
    failed: int
    untested: int
    isolation: Sequence[str]


def passed(folder: Path, query_id: int, program: str) -> bool | None:
    """Whether this program passed its tests; None if it was not run."""
    verdict = _verdicts(folder / FILE, _stamp(folder / FILE)).get(str(query_id))
    return verdict.passed if verdict and verdict.program == _hash(program) else None


def run_code(run: Run, tests: Path | None = None, limits: Limits | None = None, workers: int | None = None, weak: bool = False) -> Summary:
    """Run every program among the judged answers, `workers` at a time, and write the verdicts.

    tests: a file or folder of LiveCodeBench's problems, for samples that carry no tests of their own. weak: accept a machine without strong
    isolation. Raises ConfigError if there is nothing to run, if the run was modified, or if isolation is too weak.
    """
    programs = _programs(run)
    if not programs:
        raise ConfigError(f"run {run.folder.name!r} has no answer with a program, such as LiveCodeBench asks for.")
    if reasons := modifications(run.folder):
        raise ConfigError(f"run {run.folder.name!r} was modified after it finished, so its programs are not run: {reasons[0]}")
    layers = isolation()
    if not weak and (missing := [name for name in STRONG if name not in layers]):
        raise ConfigError(
            f"this machine cannot isolate programs well enough: no {' and no '.join(missing)}. Use Linux 5.13 or later on x86_64 or "
            "aarch64 with Landlock, seccomp and user namespaces, or accept weaker isolation with --weak-sandbox. Open to the programs are "
            f"then: {', '.join([*still_open(layers), 'the kernel, which they share'])}."
        )
    limits = limits or Limits()
    verdicts: dict[str, dict[str, Any]] = {}
    num_workers = workers or os.cpu_count() or 1
    slots = threading.BoundedSemaphore(4 * num_workers)  # tests are large, so only a few are in memory at a time
    with ThreadPoolExecutor(num_workers) as pool:
        waiting: list[tuple[Record, str, Future[Outcome]]] = []
        for record, program, problem in _with_tests(run, programs, tests):
            slots.acquire()
            future = pool.submit(run_tests, program, problem.tests, problem.function, limits)
            future.add_done_callback(lambda _: slots.release())
            waiting.append((record, program, future))
        for record, program, done in waiting:
            outcome = done.result()
            verdicts[str(record.query_id)] = {"program": _hash(program), "passed": outcome.passed, "why": outcome.why}
    content = {"schema": SCHEMA, "fences": layers, "open": still_open(layers), "limits": {n: getattr(limits, n) for n in Limits.__slots__}}
    write_json(run.folder / FILE, {**content, "verdicts": verdicts})
    add_file(run.folder, FILE)
    num_passed = sum(v["passed"] for v in verdicts.values())
    return Summary(num_passed, len(verdicts) - num_passed, len(programs) - len(verdicts), layers)


def _programs(run: Run) -> list[tuple[Record, str]]:
    """Judged answers and their programs, read in the format of the run's model."""
    read: Callable[[str], str | None] = deepseek_program if run.config.dataset.get("source") == "deepseek-r1" else gpt_oss_program
    records = (r for r in run.judged if r.status == "done" and run.samples[r.sample_index].meta.get("scored_by") == KIND)
    return [(record, program) for record in records if (program := read(record.text or ""))]


def _with_tests(run: Run, programs: Sequence[tuple[Record, str]], tests: Path | None) -> Iterator[tuple[Record, str, Problem]]:
    """Programs whose tests are in the sample or else in the file. The file is read once; only problems of the run are kept."""
    without_tests: dict[str, list[tuple[Record, str]]] = {}
    for record, program in programs:
        meta = run.samples[record.sample_index].meta
        if own := problem_of(meta):
            yield record, program, own
        else:
            without_tests.setdefault(str(meta["answer"]), []).append((record, program))
    if without_tests and tests is None:
        raise ConfigError(
            f"{sum(map(len, without_tests.values()))} programs have no tests in the run. Give LiveCodeBench's files with --tests FOLDER: "
            "hf download livecodebench/code_generation_lite --repo-type dataset --local-dir FOLDER"
        )
    if without_tests and tests is not None:
        for question, problem in read_problems(tests, set(without_tests)):
            for record, program in without_tests[question]:
                yield record, program, problem


def _stamp(file: Path) -> tuple[int, int]:
    try:
        stat = file.stat()
    except FileNotFoundError:
        return 0, 0
    return stat.st_mtime_ns, stat.st_size


@functools.lru_cache(maxsize=4)
def _verdicts(file: Path, stamp: tuple[int, int]) -> Mapping[str, ProgramVerdict]:
    if stamp == (0, 0):
        return {}
    fix = f"remove it and run: suite.py run-code {file.parent}"
    content = read_json(file, CodeResults, fix)
    if content.schema != SCHEMA:
        raise ConfigError(f"{file} is from another version; {fix}")
    return content.verdicts


def _hash(program: str) -> str:
    return hashlib.sha256(program.encode()).hexdigest()
