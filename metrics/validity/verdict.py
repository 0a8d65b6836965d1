"""The verdict: why a run is INVALID."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from metrics.base import Run
from metrics.validity import gates
from metrics.validity.answers import given_answers
from metrics.validity.check import Check
from metrics.validity.loadgen_agreement import TOLERANCE, Comparison
from metrics.validity.mlperf_rules import departures
from workloads.loadgen.load_test import read_summary
from workloads.mlperf.run_rules import benchmark_of
from workloads.run_folder.manifest import is_sealed, modifications, plugin_changes


def reasons(
    run: Run,
    failures: Mapping[str, Sequence[str]],
    comparisons: Sequence[Comparison],
    checks: Sequence[Check],
    gate_results: Sequence[gates.GateResult],
) -> list[str]:
    """Why the run is INVALID, one sentence each; empty where it is VALID.

    failures: canaries that failed the run, with the answers that triggered them. comparisons: LoadGen's figures and ours.
    """
    found = changed(run)
    modes = ("performance", "accuracy") if run.config.mode == "both" else (run.config.mode,)
    for mode in modes:
        if mode not in run.outcome:
            found.append(
                f"the {mode} test did not finish: it has no entry in outcome.json. Its processes were killed, or it is still running."
            )
    for mode, outcome in run.outcome.items():
        if outcome.get("aborted"):
            found.append(f"the {mode} test was aborted: {outcome['aborted']}")
        for before in outcome.get("earlier", []):
            old, new = ((o.get("ranks") or [{}])[0].get("effective") for o in (before, outcome))
            if old and new and old != new:
                found.append(f"the {mode} test was resumed with other effective settings: {new} after {old}")
        summary = read_summary(run.folder / mode)
        if mode == "performance" and not outcome.get("aborted"):
            if not summary:
                found.append("LoadGen wrote no summary of the performance test")
            elif summary.get("Result is") != "VALID":
                found.append(f"LoadGen's verdict is {summary.get('Result is', 'missing')}: {_loadgen_why(summary)}")
    num_failed = run.num_failed
    if num_failed:
        causes = {o.get("aborted") for o in run.outcome.values()}
        first = next((r for r in run.records if r.status == "failed" and r.error not in causes), None)
        found.append(
            f"{num_failed} of {run.num_issued} queries failed or did not finish"
            + (f"; first: {first.error} (rank {first.rank})" if first else "")
        )
    if not any(r.status == "done" for r in run.records):
        found.append("no query was answered")
    found += [
        f"{c.name} is {c.own:.6g} {c.unit} by our records and {c.loadgen:.6g} by LoadGen: they differ by more than {TOLERANCE:.0%}"
        for c in comparisons
        if not c.agrees
    ]
    count = len(given_answers(run)) if failures else 0
    found += [f"canary {name!r}: {len(hits)} of {count} answers, first {hits[0]}" for name, hits in failures.items()]
    found += [f"truth check {check.name!r}: {check.message}" for check in checks if check.result == "differs"]
    aborted = any(o.get("aborted") for o in run.outcome.values())  # then the cause is named above, and errors of ranks follow from it
    found += [f"rank {rank['rank']}: {rank['error']}" for rank in run.ranks if rank.get("error") and not aborted]
    found += _rule_departures(run) + gates.reasons(gate_results)
    if not found and not is_sealed(run.folder):
        found = ["manifest.json has no hashes: the run ended before they were written, so changes to its files cannot be detected"]
    return found


def changed(run: Run) -> list[str]:
    """What is not as the run left it: its files, and the plugins that it is scored by."""
    parts = [("workloads", run.config.workload), *(("metrics", name) for name in run.metric_names)]
    return [*modifications(run.folder), *plugin_changes(run.folder, parts)]


def _rule_departures(run: Run) -> list[str]:
    """Where the run departs from MLPerf's rules, if it is judged by them."""
    if not run.config.by_mlperf:
        return []
    benchmark = benchmark_of(run.config)
    ended = [mode for mode, outcome in run.outcome.items() if not outcome.get("aborted")]
    found = [sentence for mode in ended for sentence in departures(run.folder / mode, benchmark, run.config.scenario, mode)]
    if run.has_random_weights:
        found.append(f"random weights are not the model of {benchmark.name}; use --set rules=quick to measure speed alone")
    return found


def _loadgen_why(summary: Mapping[str, str]) -> str:
    checks = ("Min duration satisfied", "Min queries satisfied", "Early stopping satisfied", "Performance constraints satisfied")
    failed = [name.removesuffix(" satisfied").lower() for name in checks if summary.get(name, "Yes").upper().startswith("N")]
    advice = [summary[k] for k in summary if k.startswith("Recommendations")]
    return ", ".join(failed + advice) + " not satisfied" if failed else "see mlperf_log_summary.txt"
