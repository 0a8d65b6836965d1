"""Runs MLPerf's compliance tests on the configuration of a finished run.

TEST01  answers in performance mode are those of accuracy mode, and the test is within 10 % of the run's performance
TEST04  one sample repeated is answered at most 10 % faster than different ones, so answers are not cached
TEST06  of 100 answers: the first token reported is the answer's first, at most one end token, and the number of tokens is right
TEST07  accuracy of the answers in performance mode
TEST09  mean length of the answers in performance mode
Settings and thresholds are those of mlcommons/inference at b66003e1, compliance/TESTxx/audit.config (settings.py, judge.py).

The run folder is not changed. Beside it, RUN-compliance/ is written: TESTxx/ as the official scripts write it, runs/TESTxx/ with the
suite's run folder of each test, and comply.json.
"""

from __future__ import annotations

import contextlib
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
from metrics.mlperf.compliance.verdict import Verdict, not_run
from metrics.report.load_run import load_run
from pipelines.distributed.ranks import is_main_process
from pipelines.launcher.provenance import run_parts
from workloads.mlperf.run_rules import shown_benchmark
from workloads.run_folder.claim import Claim, claim
from workloads.run_folder.files import write_json
from workloads.run_folder.manifest import modifications, plugin_changes

TESTS = ("TEST01", "TEST04", "TEST06", "TEST07", "TEST09")
TESTS_OF_UNIT = {"tokens": TESTS, "frames": ("TEST01", "TEST04", "TEST07")}  # of runs that are no MLPerf benchmark
NUM_PAIRS = 3  # of tests and controls, where the machine may have changed


def comply(folder: Path, names: Sequence[str], output: Path | None) -> Compliance | None:
    """Run the tests and write their results, beside those that are there already. Returns None on ranks other than the first.

    Raises ConfigError for a user's mistake, GivenUpError if a test is aborted.
    """
    run = load_run(folder)
    target = output or folder_beside(folder)
    tests = _select(run, names)
    check_run(run)
    if not tests:
        return Compliance(target, "NONE ASKED", [], run.config.benchmark) if is_main_process() else None
    with claim(target) if is_main_process() else contextlib.nullcontext() as claimed:
        return _comply(run, tests, names, target, claimed)


def _comply(run: Run, tests: Sequence[str], names: Sequence[str], target: Path, claimed: Claim | None) -> Compliance | None:
    before = read_earlier(run, target)
    tests = _remaining(tests, names, before, target)
    ranks = run.outcome["performance"]["ranks"]
    on_cpu = any(str(rank["device"]).startswith("cpu") for rank in ranks)
    check_ranks(len(ranks) * run.config.parallel.size, on_cpu, f"comply {run.folder}")
    reasons = {name: reason for name in tests if (reason := reason_not_run(run, name))}
    audits = [make_audit(run, name, target) for name in tests if name not in reasons]
    if audits:
        run_audits(audits, lambda audit: controls(run, audit), claimed)
    if not is_main_process():
        return None
    verdicts = {name: not_run(name, reasons[name]) if name in reasons else judge(name, run, target) for name in tests}
    in_order = [(before | verdicts)[name] for name in TESTS if name in before or name in verdicts]
    compliance = Compliance(target, _overall(in_order), in_order, run.config.benchmark)
    write_json(target / "comply.json", as_json(compliance, run))
    return compliance


def _remaining(tests: Sequence[str], names: Sequence[str], before: Mapping[str, Verdict], target: Path) -> list[str]:
    """The tests that were not run yet. Raises ConfigError if there are none, or if a test requested by name was run."""
    existing = [name for name in tests if (target / "runs" / name).exists()]
    if interrupted := [name for name in existing if name not in before]:
        raise ConfigError(
            f"{str(target)!r} holds a {interrupted[0]} that was interrupted. Remove the folder, or choose another one with --output."
        )
    remaining = [name for name in tests if name not in existing]
    if not remaining or (names and existing):
        raise ConfigError(f"{str(target)!r} already holds {', '.join(existing)}. Remove the folder, or choose another one with --output.")
    return remaining


def check_run(run: Run) -> None:
    """Raise ConfigError if the run has no performance that a test can be compared with."""
    name = str(run.folder)
    if "performance" not in run.outcome:
        raise ConfigError(f"run {name!r} has no performance test, which comply needs. Run it again with --mode both.")
    if aborted := run.outcome["performance"].get("aborted"):
        raise ConfigError(f"run {name!r} was aborted ({aborted}). Run it again.")
    if reasons := [*modifications(run.folder), *plugin_changes(run.folder, run_parts(run.config))]:
        raise ConfigError(f"run {name!r} was modified after it finished: {reasons[0]}")


def reason_not_run(run: Run, test: str) -> str:
    """Why the test cannot be run; empty if it can."""
    if test == "TEST01" and not any(r.status == "done" for r in run.of_mode("accuracy")):
        return "the run has no accuracy test to compare with. Run it again with --mode both."
    if test == "TEST04" and len(run.samples) <= SAME_INDEX:
        return f"the data set has {len(run.samples)} samples, but the test repeats sample {SAME_INDEX}"
    try:
        dataset_of(run, test)
    except ConfigError as error:
        return str(error)
    return ""


def make_audit(run: Run, test: str, target: Path) -> AuditTest:
    """The test to run: the run's own configuration and load, with the test's LoadGen settings."""
    load = run.config.load.model_copy(update={"target_qps": float(run.outcome["performance"]["target_qps"])})
    truth = run.config.truth.model_copy(update={"replays": 0})
    dataset, samples = dataset_of(run, test)
    config = run.config.model_copy(update={"mode": "performance", "load": load, "truth": truth, "dataset": dataset})
    return AuditTest(test, config, samples, settings(run, test, len(samples)), target / "runs" / test)


def controls(run: Run, audit: AuditTest) -> list[AuditTest]:
    """Tests to add where a test's speed differs from the run's, because the machine may have changed since then.

    Each pair is the run's own load (the control) and the test again. The control runs on a newly loaded pipeline and with another seed, so
    that no cache has its answers. Under MLPerf's rules there are none: a submission is compared with the performance it submits.
    """
    if audit.name not in ("TEST01", "TEST04") or run.config.by_mlperf or not needs_controls(run, audit.name, audit.folder):
        return []
    tests = []
    for number in range(1, NUM_PAIRS + 1):
        other = audit.config.model_copy(update={"seed": audit.config.seed + number})
        control, again = (audit.folder.with_name(f"{audit.name}-{kind}-{number}") for kind in ("control", "again"))
        tests.append(AuditTest(control.name, other, audit.samples, {"mode": 2}, control, fresh=True))
        tests.append(replace(audit, name=again.name, folder=again))
    return tests


def _select(run: Run, names: Sequence[str]) -> list[str]:
    """The tests that the benchmark's rules require, or that apply to the workload; of those, the ones requested by name, if any."""
    if (benchmark := shown_benchmark(run.config)) is not None:
        known, owner = benchmark.compliance, f"MLPerf requires of {benchmark.name}"
    else:
        known, owner = TESTS_OF_UNIT.get(run.workload.unit, ("TEST01", "TEST04")), f"workload {run.config.workload!r} has"
    for name in names:
        if name not in TESTS:
            raise ConfigError(unknown("compliance test", name, TESTS))
        if name not in known:
            raise ConfigError(f"{owner} {', '.join(known) or 'no compliance test'}, not {name}")
    return [name for name in known if not names or name in names]


def _overall(verdicts: Sequence[Verdict]) -> str:
    results = {v.result for v in verdicts}
    return "FAIL" if "fails" in results else "PASS" if results == {"holds"} else "INCOMPLETE"
