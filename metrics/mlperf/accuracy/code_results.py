"""Programs in a run's answers, run against their tests when that is asked for: `suite.py run-code RUN`.

Verdicts go into code_results.json of the run folder, with the hash of each program, and into its manifest; a report reads them, and never
runs anything itself, so that a run from elsewhere can be scored again without its programs being started.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from configs.errors import ConfigError
from metrics.base import Run
from metrics.mlperf.accuracy.code_sandbox import STRONG, Limits, Outcome, fences, run_tests
from metrics.mlperf.accuracy.reasoning_answers import deepseek_program, gpt_oss_program
from workloads.mlperf.livecodebench import Problem, problem_of, read_problems
from workloads.records import Record
from workloads.run_folder.files import write_json
from workloads.run_folder.manifest import add_file, modifications

FILE = "code_results.json"
SCHEMA = "triptych-code-results/1"
KIND = "livecodebench"


class Summary(NamedTuple):
    """Answers with a program, by how it went. untested: their tests were not found."""

    passed: int
    failed: int
    untested: int
    fences: Sequence[str]


def passed(folder: Path, query_id: int, program: str) -> bool | None:
    """Whether that very program passed its tests; None where it was not run."""
    found = _verdicts(folder / FILE, _stamp(folder / FILE)).get(str(query_id))
    return bool(found["passed"]) if found and found["program"] == _hash(program) else None


def run_code(run: Run, tests: Path | None = None, limits: Limits | None = None, workers: int | None = None, weak: bool = False) -> Summary:
    """Run every program among the judged answers, some at a time, and keep the verdicts.

    tests: a file or folder of LiveCodeBench's problems, for samples that carry no tests of their own. weak: go on where the machine grants
    no strong fences. Raises ConfigError where there is nothing to run, where the run's files were changed, or where it is not fenced in.
    """
    programs = _programs(run)
    if not programs:
        raise ConfigError(f"run {run.folder.name!r} has no answer with a program in it, such as those to LiveCodeBench are")
    if reasons := modifications(run.folder):
        raise ConfigError(f"run {run.folder.name!r} was modified after it finished, so its programs are not run: {reasons[0]}")
    standing = fences()
    if not weak and (lacking := [name for name in STRONG if name not in standing]):
        raise ConfigError(
            f"this machine does not fence programs in well enough (no {' and no '.join(lacking)}: Linux 5.13 or later with Landlock and "
            "user namespaces has them); run it on another, or accept that with --weak-sandbox"
        )
    limits = limits or Limits()
    verdicts: dict[str, dict[str, Any]] = {}
    num_workers = workers or os.cpu_count() or 1
    places = threading.BoundedSemaphore(4 * num_workers)  # tests are large: only so many are held at a time
    with ThreadPoolExecutor(num_workers) as pool:
        waiting: list[tuple[Record, str, Future[Outcome]]] = []
        for record, program, problem in _with_tests(run, programs, tests):
            places.acquire()
            future = pool.submit(run_tests, program, problem.tests, problem.function, limits)
            future.add_done_callback(lambda _: places.release())
            waiting.append((record, program, future))
        for record, program, done in waiting:
            outcome = done.result()
            verdicts[str(record.query_id)] = {"program": _hash(program), "passed": outcome.passed, "why": outcome.why}
    told = {"schema": SCHEMA, "fences": standing, "limits": {n: getattr(limits, n) for n in Limits.__slots__}, "verdicts": verdicts}
    write_json(run.folder / FILE, told)
    add_file(run.folder, FILE)
    num_passed = sum(v["passed"] for v in verdicts.values())
    return Summary(num_passed, len(verdicts) - num_passed, len(programs) - len(verdicts), standing)


def _programs(run: Run) -> list[tuple[Record, str]]:
    """Judged answers with their programs, read as the run's model writes them."""
    read: Callable[[str], str | None] = deepseek_program if run.config.dataset.get("source") == "deepseek-r1" else gpt_oss_program
    asked = (r for r in run.judged if r.status == "done" and run.samples[r.sample_index].meta.get("scored_by") == KIND)
    return [(record, program) for record in asked if (program := read(record.text or ""))]


def _with_tests(run: Run, programs: Sequence[tuple[Record, str]], tests: Path | None) -> Iterator[tuple[Record, str, Problem]]:
    """Programs whose tests are in the sample or, else, in the file; that one is read once, and only what is asked for is kept."""
    wanted: dict[str, list[tuple[Record, str]]] = {}
    for record, program in programs:
        meta = run.samples[record.sample_index].meta
        if own := problem_of(meta):
            yield record, program, own
        else:
            wanted.setdefault(str(meta["answer"]), []).append((record, program))
    if wanted and tests is None:
        raise ConfigError(
            f"{sum(map(len, wanted.values()))} programs have no tests in the run; give LiveCodeBench's own files with --tests FOLDER: "
            "hf download livecodebench/code_generation_lite --repo-type dataset --local-dir FOLDER"
        )
    if wanted and tests is not None:
        for question, problem in read_problems(tests, set(wanted)):
            for record, program in wanted[question]:
                yield record, program, problem


def _stamp(file: Path) -> tuple[int, int]:
    try:
        stat = file.stat()
    except FileNotFoundError:
        return 0, 0
    return stat.st_mtime_ns, stat.st_size


@functools.lru_cache(maxsize=4)
def _verdicts(file: Path, stamp: tuple[int, int]) -> Mapping[str, Any]:
    if stamp == (0, 0):
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        verdicts = found["verdicts"] if found["schema"] == SCHEMA else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file} is damaged ({error}); remove it and run: suite.py run-code {file.parent}") from None
    if not isinstance(verdicts, dict):
        raise ConfigError(f"{file} is of another version; remove it and run: suite.py run-code {file.parent}")
    return verdicts


def _hash(program: str) -> str:
    return hashlib.sha256(program.encode()).hexdigest()
