"""MLPerf's compliance tests on the set-up of a finished run: which are held, with which settings of LoadGen, and the table of verdicts.

TEST01  answers given in performance mode are those of accuracy mode, and the test is within 10 % of the run's performance
TEST04  the same sample asked again and again is not answered more than 10 % faster than different ones: no answer is cached
TEST06  of 100 answers: the first token announced is the answer's first, one end token at most at the end, as many tokens as were counted
TEST07  accuracy of the answers that are given in performance mode
TEST09  mean length of the answers that are given in performance mode
Settings and thresholds are those of mlcommons/inference at b66003e1, compliance/TESTxx/audit.config; judge.py judges.

Beside the run folder, which stays as it is, comes RUN-compliance/: TESTxx/ as the official scripts leave it, runs/TESTxx/ with the
suite's own run folder of each test, and comply.json.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from configs.errors import ConfigError, unknown
from configs.registry import make
from configs.run_config import RunConfig
from metrics.base import Run
from metrics.mlperf.compliance.judge import Verdict, judge, needs_controls, not_held
from metrics.mlperf.compliance.run_tests import AuditTest, check_ranks, run_audits
from metrics.report.report import load_run
from workloads.loadgen.load_test import LoadTest
from workloads.mlperf.notices import UNVERIFIED
from workloads.mlperf.run_rules import shown_benchmark
from workloads.records import Sample
from workloads.run_folder.files import write_json
from workloads.run_folder.manifest import distrust

TESTS = ("TEST01", "TEST04", "TEST06", "TEST07", "TEST09")
OF_UNIT = {"tokens": TESTS, "frames": ("TEST01", "TEST04", "TEST07")}  # of runs that are no MLPerf benchmark, by what a workload counts
LOG_SEED = 720381539243781796  # of all official audit.config files
SAME_INDEX = 3  # of the sample that TEST04 repeats
NUM_LOGGED = {"TEST01": 128, "TEST06": 100, "TEST07": 10_000, "TEST09": 10_000}  # answers that LoadGen keeps, about
PAIRS = 3  # of tests and controls, where the machine may have changed
WAN_QUERIES = 64  # in place of the stock file's 20, which is too few for LoadGen to stop early; AMD's v6.0 submission did the same


class Compliance(NamedTuple):
    """verdict: PASS; FAIL, one does not hold; INCOMPLETE, none fails and one could not be held; NONE ASKED, MLPerf asks no test of it."""

    folder: Path
    verdict: str
    verdicts: list[Verdict]
    benchmark: str | None = None


def comply(folder: Path, wanted: Sequence[str], output: Path | None) -> Compliance | None:
    """Hold the tests and write what they leave, beside those that are there; None on ranks other than the first.

    Raises ConfigError for what a user can mend, GivenUpError where a test had to be given up.
    """
    run = load_run(folder)
    target = output or folder_beside(folder)
    tests = _wanted(run, wanted)
    check_run(run)
    if not tests:
        return Compliance(target, "NONE ASKED", [], run.config.benchmark) if is_main() else None
    before = _held_before(run, target)
    tests = _still_to_hold(tests, wanted, before, target)
    check_ranks(_num_ranks(run), _on_cpu(run), f"comply {folder}")
    reasons = {name: why for name in tests if (why := why_not(run, name))}
    audits = [audit_of(run, name, target) for name in tests if name not in reasons]
    if audits:
        run_audits(audits, lambda audit: pairs(run, audit))
    if not is_main():
        return None
    verdicts = {name: not_held(name, reasons[name]) if name in reasons else judge(name, run, target) for name in tests}
    in_order = [(before | verdicts)[name] for name in TESTS if name in before or name in verdicts]
    found = Compliance(target, _overall(in_order), in_order, run.config.benchmark)
    target.mkdir(parents=True, exist_ok=True)
    write_json(target / "comply.json", as_json(found, run))
    return found


def folder_beside(run: Path) -> Path:
    """Where a run's tests go, and where `submit` looks for them, if nothing else is said."""
    return run.resolve().with_name(f"{run.resolve().name}-compliance")


def read_verdicts(target: Path) -> dict[str, Any]:
    """comply.json. Raises ConfigError where there is none, or it is damaged."""
    file = target / "comply.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or not isinstance(found["tests"], dict) or not isinstance(found["log"], str):
            raise ValueError("it is of another version")
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"{str(target)!r} holds no compliance tests that can be read ({error}): remove it, and run suite.py comply"
        ) from None
    return found


def performance_log_hash(run: Path) -> str:
    """What tells a run from others of its name: the hash of LoadGen's log of its performance test."""
    file = run / "performance/mlperf_log_detail.txt"
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror}); this run folder is incomplete") from None


def _held_before(run: Run, target: Path) -> dict[str, Verdict]:
    """By name, tests of this run that are in the folder. Raises ConfigError where it is another run's."""
    if not (target / "comply.json").exists():
        return {}
    found = read_verdicts(target)
    if found["log"] != performance_log_hash(run.folder):
        raise ConfigError(f"{str(target)!r} holds the tests of another run; give --output another folder, or remove it")
    return {name: Verdict(name, v["result"], v["told"], v["basis"], v["figures"]) for name, v in found["tests"].items()}


def _still_to_hold(tests: Sequence[str], wanted: Sequence[str], before: Mapping[str, Verdict], target: Path) -> list[str]:
    """Those that were not run so far. Raises ConfigError where there are none, or one that is asked for by name was run."""
    was_run = [name for name in tests if (target / "runs" / name).exists()]
    left = [name for name in tests if name not in was_run]
    if broken_off := [name for name in was_run if name not in before]:
        raise ConfigError(f"{str(target)!r} holds a {broken_off[0]} that was broken off; remove it, or give --output another folder")
    if not left or (wanted and was_run):
        raise ConfigError(f"{str(target)!r} holds {', '.join(was_run)} already; give --output another folder, or remove it")
    return left


def is_main() -> bool:
    from pipelines.launcher.launch import is_main_process

    return is_main_process()


def as_json(found: Compliance, run: Run) -> dict[str, Any]:
    tests = {v.test: {"result": v.result, "told": v.told, "basis": v.basis, "figures": dict(v.figures)} for v in found.verdicts}
    return {
        "run": run.folder.resolve().name,
        "log": performance_log_hash(run.folder),
        "benchmark": run.config.benchmark,
        "rules": run.config.rules,
        "verdict": found.verdict,
        "tests": tests,
        "note": UNVERIFIED,
    }


def check_run(run: Run) -> None:
    """Raises ConfigError where the run is none whose performance can be held against another test's."""
    shown = str(run.folder)
    if "performance" not in run.outcome:
        raise ConfigError(f"run {shown!r} has no performance test; comply needs one: run it with --mode both")
    if aborted := run.outcome["performance"].get("aborted"):
        raise ConfigError(f"run {shown!r} was given up ({aborted}); run it anew")
    if reasons := distrust(run.folder):
        raise ConfigError(f"run {shown!r} is not as it was left: {reasons[0]}")


def why_not(run: Run, test: str) -> str:
    """Why the test cannot be held on this run; empty where it can."""
    if test == "TEST01" and not any(r.status == "done" for r in run.of_mode("accuracy")):
        return "the run has no accuracy test to compare with; run it with --mode both"
    if test == "TEST04" and len(run.samples) <= SAME_INDEX:
        return f"the data set has {len(run.samples)} samples, and the test repeats sample {SAME_INDEX}"
    try:
        _data(run, test)
    except ConfigError as error:
        return str(error)
    return ""


def audit_of(run: Run, test: str, target: Path) -> AuditTest:
    """The test as it is to be run: the run's own configuration and load, LoadGen's settings of the test laid over it."""
    load = run.config.load.model_copy(update={"target_qps": float(run.outcome["performance"]["target_qps"])})
    truth = run.config.truth.model_copy(update={"replays": 0})
    dataset, samples = _data(run, test)
    config = run.config.model_copy(update={"mode": "performance", "load": load, "truth": truth, "dataset": dataset})
    return AuditTest(test, config, samples, settings(run, test, len(samples)), target / "runs" / test)


def pairs(run: Run, audit: AuditTest) -> list[AuditTest]:
    """Where a test's speed is not the run's, the machine may have changed since: pairs of the run's own load, and the test once more.

    The load is asked of a pipeline that has answered nothing, with another seed, so that no cache has its answers. Under MLPerf's rules
    there is no such second look: a submission is held against what it submits.
    """
    if audit.name not in ("TEST01", "TEST04") or run.config.by_mlperf or not needs_controls(run, audit.name, audit.folder):
        return []
    found = []
    for number in range(1, PAIRS + 1):
        other = audit.config.model_copy(update={"seed": audit.config.seed + number})
        own = audit.folder.with_name(f"{audit.name}-control-{number}")
        found.append(AuditTest(own.name, other, audit.samples, {"mode": 2}, own, fresh=True))
        found.append(replace(audit, name=f"{audit.name}-again-{number}", folder=audit.folder.with_name(f"{audit.name}-again-{number}")))
    return found


def settings(run: Run, test: str, num_samples: int) -> dict[str, int]:
    """LoadGen's, as the official audit.config of the test has them."""
    if test == "TEST04":
        found = {"mode": 2, "performance_issue_unique": 0, "performance_issue_same": 1}
        found["performance_issue_same_index"] = SAME_INDEX if run.config.benchmark or run.workload.unit != "tokens" else _typical(run)
        return found | ({"min_query_count": WAN_QUERIES} if run.config.benchmark == "wan-2.2-t2v-a14b" else {})
    found = {"mode": 2, "accuracy_log_rng_seed": LOG_SEED, "accuracy_log_sampling_target": NUM_LOGGED[test]}
    if test == "TEST01":
        return found | ({"accuracy_log_sampling_target": 50} if run.workload.unit == "frames" else {})
    found |= {"min_duration": 0, "sample_concatenate_permutation": 0}
    if test == "TEST06":
        return found | {"min_query_count": NUM_LOGGED[test], "use_token_latencies": 1}
    found |= {"min_query_count": num_samples, "accuracy_log_sampling_target": max(NUM_LOGGED[test], num_samples)}
    if run.config.benchmark is None and run.config.scenario not in ("offline", "multi_stream"):
        found["performance_issue_unique"] = 1  # each sample once: the official settings draw with replacement
    return found


def _wanted(run: Run, wanted: Sequence[str]) -> list[str]:
    """In order. Those of the benchmark's rules, or those that make sense for the workload."""
    if (found := shown_benchmark(run.config)) is not None:
        known, owner = found.compliance, f"MLPerf asks of {found.name}"
    else:
        known, owner = OF_UNIT.get(run.workload.unit, ("TEST01", "TEST04")), f"workload {run.config.workload!r} knows"
    for name in wanted:
        if name not in TESTS:
            raise ConfigError(unknown("compliance test", name, TESTS))
        if name not in known:
            raise ConfigError(f"{owner} {', '.join(known) or 'no compliance test'}; {name} is none of them")
    return [name for name in known if not wanted or name in wanted]


def _num_ranks(run: Run) -> int:
    return len(run.outcome["performance"]["ranks"]) * run.config.parallel.size


def _on_cpu(run: Run) -> bool:
    return any(str(rank["device"]).startswith("cpu") for rank in run.outcome["performance"]["ranks"])


def _data(run: Run, test: str) -> tuple[dict[str, Any], Sequence[Sample]]:
    """Options of the data set, and its samples: the run's own, but for gpt-oss, whose TEST07 asks a set that is made for it.

    Raises ConfigError where that is not to be had.
    """
    if test != "TEST07" or run.config.benchmark != "gpt-oss-120b":
        return run.config.dataset, run.samples
    dataset = {"source": "gpt-oss-gpqa", "path": _folder_of_sets(run.config.dataset.get("path"))}
    return dataset, list(make("workloads", run.config.workload, dataset).samples())


def _folder_of_sets(path: str | None) -> str | None:
    """The folder in which gpt-oss's sets lie, of the one that the run read: MLCommons gives them out in `perf` and `acc` of one folder."""
    if path is None or not Path(path).is_file():
        return path
    folder = Path(path).parent
    return str(folder.parent if folder.name in ("perf", "acc") else folder)


def _typical(run: Run) -> int:
    """Where in LoadGen's order the sample stands whose tokens, of prompt and answer, are what the run's speed rests on.

    Texts differ in length, and a short one repeated would look like a cache. Throughput rests on the mean; a stream's latency at a
    percentile on answers that long.
    """
    done = [r for r in run.of_mode("performance") if r.status == "done"]
    at_percentile = run.config.scenario in ("single_stream", "multi_stream")

    def aim(counts: Sequence[int]) -> float:
        level = np.quantile(counts, run.config.load.target_percentile) if at_percentile else np.mean(counts)
        return max(1.0, float(level))

    out, into = aim([r.num_units for r in done]), aim([r.num_input_tokens for r in done])
    closest = min(done, key=lambda r: (abs(r.num_units / out - 1) + abs(r.num_input_tokens / into - 1), r.sample_index))
    return library_order(run.config, len(run.samples)).index(closest.sample_index)


def library_order(config: RunConfig, num_samples: int) -> list[int]:
    """The order into which LoadGen, by its seed, puts the data set; by this order an audit.config counts samples."""
    found: list[int] = []

    def answer(ids: list[int], indices: list[int]) -> None:
        found.extend(indices)
        test.complete([(i, "", 2) for i in ids])

    load = config.load.model_copy(update={"target_qps": 1.0, "min_duration_s": 0.1, "min_query_count": num_samples})
    with tempfile.TemporaryDirectory(prefix="triptych-") as folder:
        offline = config.model_copy(update={"scenario": "offline", "load": load})
        test = LoadTest(offline, "performance", num_samples, 1.0, False, Path(folder), answer)
        test.start()
        test.join(60.0)
    return found[:num_samples]


def _overall(verdicts: Sequence[Verdict]) -> str:
    results = {v.result for v in verdicts}
    return "FAIL" if "fails" in results else "PASS" if results == {"holds"} else "INCOMPLETE"


def print_table(found: Compliance) -> None:
    """To stderr."""
    from rich.console import Console
    from rich.table import Table

    console = Console(stderr=True, highlight=False)
    if found.verdict == "NONE ASKED":
        console.print(f"NONE ASKED  MLPerf asks for no compliance test of {found.benchmark}; nothing was run", markup=False, soft_wrap=True)
        return
    console.print(f"{found.verdict}  MLPerf's compliance tests. {UNVERIFIED}", markup=False)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("test", "result", "what was seen", "threshold"):
        table.add_column(column, overflow="fold")
    for v in found.verdicts:
        table.add_row(v.test, v.result, v.told, v.basis)
    console.print(table)
    console.print(f"files: {found.folder}", markup=False)


def line(found: Compliance) -> Mapping[str, Any]:
    """For the last line on stdout."""
    return {
        "comply": str(found.folder) if found.verdicts else None,
        "verdict": found.verdict,
        "tests": {v.test: v.result for v in found.verdicts},
    }
