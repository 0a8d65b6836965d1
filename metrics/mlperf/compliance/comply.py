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

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from configs.errors import ConfigError, unknown
from metrics.base import Run
from metrics.mlperf.compliance.judge import judge
from metrics.mlperf.compliance.performance import needs_controls
from metrics.mlperf.compliance.results import Compliance, as_json, folder_beside, read_earlier
from metrics.mlperf.compliance.run_tests import AuditTest, check_ranks, run_audits
from metrics.mlperf.compliance.settings import SAME_INDEX, dataset_of, settings
from metrics.mlperf.compliance.verdict import Verdict, not_held
from metrics.report.load_run import load_run
from workloads.mlperf.run_rules import shown_benchmark
from workloads.run_folder.files import write_json
from workloads.run_folder.manifest import modifications

TESTS = ("TEST01", "TEST04", "TEST06", "TEST07", "TEST09")
OF_UNIT = {"tokens": TESTS, "frames": ("TEST01", "TEST04", "TEST07")}  # of runs that are no MLPerf benchmark, by what a workload counts
PAIRS = 3  # of tests and controls, where the machine may have changed


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
    before = read_earlier(run, target)
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
    from pipelines.distributed.ranks import is_main_process

    return is_main_process()


def check_run(run: Run) -> None:
    """Raises ConfigError where the run is none whose performance can be held against another test's."""
    shown = str(run.folder)
    if "performance" not in run.outcome:
        raise ConfigError(f"run {shown!r} has no performance test; comply needs one: run it with --mode both")
    if aborted := run.outcome["performance"].get("aborted"):
        raise ConfigError(f"run {shown!r} was given up ({aborted}); run it anew")
    if reasons := modifications(run.folder):
        raise ConfigError(f"run {shown!r} was modified after it finished: {reasons[0]}")


def why_not(run: Run, test: str) -> str:
    """Why the test cannot be held on this run; empty where it can."""
    if test == "TEST01" and not any(r.status == "done" for r in run.of_mode("accuracy")):
        return "the run has no accuracy test to compare with; run it with --mode both"
    if test == "TEST04" and len(run.samples) <= SAME_INDEX:
        return f"the data set has {len(run.samples)} samples, and the test repeats sample {SAME_INDEX}"
    try:
        dataset_of(run, test)
    except ConfigError as error:
        return str(error)
    return ""


def audit_of(run: Run, test: str, target: Path) -> AuditTest:
    """The test as it is to be run: the run's own configuration and load, LoadGen's settings of the test laid over it."""
    load = run.config.load.model_copy(update={"target_qps": float(run.outcome["performance"]["target_qps"])})
    truth = run.config.truth.model_copy(update={"replays": 0})
    dataset, samples = dataset_of(run, test)
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


def _overall(verdicts: Sequence[Verdict]) -> str:
    results = {v.result for v in verdicts}
    return "FAIL" if "fails" in results else "PASS" if results == {"holds"} else "INCOMPLETE"
