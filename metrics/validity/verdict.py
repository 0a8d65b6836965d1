"""The verdict: why a run is INVALID."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from metrics.base import Run
from metrics.validity import gates
from metrics.validity.check import Check
from metrics.validity.loadgen_agreement import TOLERANCE, Comparison
from metrics.validity.mlperf_rules import departures
from workloads.loadgen.load_test import read_summary
from workloads.mlperf.run_rules import benchmark_of
from workloads.run_folder.manifest import is_sealed, modifications


def reasons(
    run: Run, alarms: Mapping[str, Sequence[int]], compared: Sequence[Comparison], checks: Sequence[Check], held: Sequence[gates.Held]
) -> list[str]:
    """Why the run is INVALID; empty where it is VALID.

    alarms: canaries with the queries that set them off. compared: figures of LoadGen and our own. held: gates, by the run's figures.
    """
    found = modifications(run.folder)
    modes = ("performance", "accuracy") if run.config.mode == "both" else (run.config.mode,)
    for mode in modes:
        if mode not in run.outcome:
            found.append(
                f"the {mode} test did not finish: it has no entry in outcome.json. Its processes were killed, or it is still running."
            )
    for mode, outcome in run.outcome.items():
        if outcome.get("aborted"):
            found.append(f"the {mode} test was given up: {outcome['aborted']}")
        for before in outcome.get("earlier", []):
            old, new = ((o.get("ranks") or [{}])[0].get("effective") for o in (before, outcome))
            if old and new and old != new:
                found.append(f"the {mode} test was resumed with other options in force: {new} after {old}")
        summary = read_summary(run.folder / mode)
        if mode == "performance" and not outcome.get("aborted"):
            if not summary:
                found.append("LoadGen left no summary of the performance test")
            elif summary.get("Result is") != "VALID":
                found.append(f"LoadGen says {summary.get('Result is', 'nothing')}: {_loadgen_why(summary)}")
    num_failed = run.num_failed
    if num_failed:
        causes = {o.get("aborted") for o in run.outcome.values()}
        first = next((r for r in run.records if r.status == "failed" and r.error not in causes), None)
        found.append(
            f"{num_failed} of {run.num_issued} queries failed or never finished"
            + (f"; first: {first.error} (rank {first.rank})" if first else "")
        )
    if not any(r.status == "done" for r in run.records):
        found.append("no query was answered")
    found += [
        f"own {c.name} {c.own:.6g} and LoadGen's {c.loadgen:.6g} {c.unit} differ by more than {TOLERANCE:.0%}"
        for c in compared
        if not c.agrees
    ]
    found += [f"canary {name!r}: {len(hits)} of {len(run.judged)} answers, first query {min(hits)}" for name, hits in alarms.items()]
    found += [f"truth check {check.name!r}: {check.told}" for check in checks if check.result == "differs"]
    left_in_order = not any(o.get("aborted") for o in run.outcome.values())  # else the cause is told, and this is what followed
    found += [f"rank {rank['rank']}: {rank['error']}" for rank in run.ranks if rank.get("error") and left_in_order]
    found += _broken_rules(run) + gates.reasons(held)
    if not found and not is_sealed(run.folder):
        found = ["manifest.json was never sealed: the run was ended before its files were hashed, so that no later change would show"]
    return found


def _broken_rules(run: Run) -> list[str]:
    """What of MLPerf's rules was not kept, where the run is judged by them."""
    if not run.config.by_mlperf:
        return []
    benchmark = benchmark_of(run.config)
    ended = [mode for mode, outcome in run.outcome.items() if not outcome.get("aborted")]
    found = [told for mode in ended for told in departures(run.folder / mode, benchmark, run.config.scenario, mode)]
    if run.has_random_weights:
        found.append(f"random weights are not the model of {benchmark.name}; --set rules=quick for its speed alone")
    return found


def _loadgen_why(summary: Mapping[str, str]) -> str:
    checks = ("Min duration satisfied", "Min queries satisfied", "Early stopping satisfied", "Performance constraints satisfied")
    failed = [name.removesuffix(" satisfied").lower() for name in checks if summary.get(name, "Yes").upper().startswith("N")]
    advice = [summary[k] for k in summary if k.startswith("Recommendations")]
    return ", ".join(failed + advice) + " not satisfied" if failed else "see mlperf_log_summary.txt"
