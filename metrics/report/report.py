"""report.json, built from a run folder alone, without a model or a GPU.

schema, run, workload, scenario, mode, rules, benchmark, seed, device, random_weights, effective, num_queries, limits, ranks
notice      MLCommons has not verified the result
verdict     VALID or INVALID, with `reasons`
cautions    what a reader must know first, where there is any: quality at its floor, and what the pipeline declares of itself
notes       how a run under MLPerf's rules generates its answers differently from the reference
loadgen     LoadGen's summary of each test; `agreement`: its figures compared with ours
figures     name -> value, unit, better, n, ci95, note
canaries    name -> number of answers that trigger it; `alarms`: those that make the run INVALID; `loosened`: those that the configuration
            makes tolerate more, `off` or a share
truth       name, result and message (`told`) of each truth check
gates       figure, value, target, at_least, at_most, holds, why: validity/gates.py
samples     prompt, media or text, and scores of each judged answer
metric_errors  by name of each metric that could not be computed, why; where there are any
attempts    tests that were too short and were run again, where there were any
search      the search for the highest rate, where there was one
brief       true where figures were left out, as for an aborted run

Nothing depends on the time or the folder in which it is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from metrics.base import Run
from metrics.performance import energy
from metrics.performance.goodput import effective_limits
from metrics.report.cautions import cautions
from metrics.report.figures import compute_figures, headline_names, plain_figure
from metrics.report.load_run import load_run
from metrics.validity import canaries, effective_settings, gates, loadgen_agreement, truth_checks, verdict
from metrics.validity.answers import label_of
from workloads.loadgen.load_test import read_summary
from workloads.mlperf.notices import differences_from_reference, notice
from workloads.mlperf.run_rules import benchmark_of
from workloads.run_folder import manifest
from workloads.run_folder.attempts import read_attempts
from workloads.run_folder.files import write_json
from workloads.run_folder.search import read_search

SCHEMA = "triptych-report/1"


@dataclass(frozen=True, slots=True)
class Report:
    """The content of report.json, and its run. worst: a missing answer's score by figure; empty for a report that was only read."""

    run: Run
    data: Mapping[str, Any]
    worst: Mapping[str, float] = field(default_factory=dict)

    @property
    def valid(self) -> bool:
        return bool(self.data["verdict"] == "VALID")


def build_report(folder: Path, brief: bool = False) -> Report:
    """Compute every metric and the verdict, and write report.json.

    brief: verdict and reasons only, without reading any answer; for an aborted run.
    """
    report = make_report(folder, brief)
    write_json(folder / "report.json", report.data)
    return report


def make_report(folder: Path, brief: bool = False) -> Report:
    """As `build_report`, without writing it."""
    run = load_run(folder)
    figures, scores, worst, errors = compute_figures(run, () if brief else run.metric_names)
    triggered = {} if brief else canaries.scan(run)
    failures = canaries.failures(run, triggered)
    comparisons = [] if brief else loadgen_agreement.compare(run)
    checks = effective_settings.checks(run) if brief else truth_checks.checks(run)
    gate_results = [] if brief else gates.evaluate(run, figures)
    reasons = verdict.reasons(run, failures, comparisons, checks, gate_results)
    reasons += [f"metric {name!r} could not be computed: {why}" for name, why in errors.items()]
    if reasons:
        figures = energy.withheld(figures)
    search = read_search(folder)
    data: dict[str, Any] = {
        "schema": SCHEMA,
        "run": _name(folder),
        "workload": run.config.workload,
        "scenario": run.config.scenario,
        "mode": run.config.mode,
        "rules": run.config.rules,
        "benchmark": run.config.benchmark,
        "notice": notice(run.config),
        "seed": run.config.seed,
        "verdict": "INVALID" if reasons else "VALID",
        "reasons": reasons,
        "notes": differences_from_reference(benchmark_of(run.config), run.config.pipeline_options) if run.config.by_mlperf else [],
        "device": _devices(run),
        "random_weights": run.has_random_weights,
        "effective": _effective(run),
        "num_queries": {"issued": run.num_issued, "done": sum(r.status == "done" for r in run.records), "failed": run.num_failed},
        "limits": {"percentile": run.config.load.target_percentile} | limits if (limits := effective_limits(run.config.limits)) else {},
        "loadgen": {mode: read_summary(folder / mode) for mode in run.outcome},
        "agreement": [asdict(c) | {"agrees": c.agrees} for c in comparisons],
        "figures": {name: plain_figure(figure) for name, figure in figures.items()},
        "canaries": {name: sum(name in names for names in triggered.values()) for name in (() if brief else canaries.canaries_for(run))},
        "alarms": list(failures),
        "loosened": canaries.loosened(run),
        "truth": [{"name": check.name, "result": check.result, "told": check.message} for check in checks],
        "gates": [asdict(gate) for gate in gate_results],
        "ranks": run.ranks,
        "samples": [_sample(run, record, scores, triggered) for record in (() if brief else run.judged)],
    }
    if (first := _manifest(folder).get("first_prompt")) is not None:  # runs of older versions have none
        data["prompts"] = {"num": len(run.samples), "first": first}
    if brief:
        data["brief"] = True
    elif warned := cautions(run, figures):
        data["cautions"] = warned
    if errors:
        data["metric_errors"] = errors
    if attempts := read_attempts(folder):
        data["attempts"] = [msgspec.structs.asdict(attempt) | {"note": attempt.note} for attempt in attempts]
    if search is not None:
        data["search"] = msgspec.to_builtins(search)
    return Report(run, data, worst)


def headline(report: Report) -> dict[str, float]:
    """The figures in the last JSON line of a command: throughput or latency, then quality."""
    noun, unit = report.run.workload.noun, report.run.workload.unit
    wanted = (f"{noun}_per_s", f"{unit}_per_s", "goodput_per_s", "ttft_p90", "tpot_p90", "latency_p90", *headline_names([report.run]))
    figures = report.data["figures"]
    return {name: figures[name]["value"] for name in wanted if figures.get(name, {}).get("value") is not None}


def _name(folder: Path) -> str:
    """The name of the run when it was made; its folder may have been moved since."""
    return str(_manifest(folder).get("run", folder.resolve().name))


def _manifest(folder: Path) -> manifest.Manifest:
    """Empty where it cannot be read, which is a reason of the verdict."""
    try:
        return manifest.read_manifest(folder)
    except ValueError:
        return {"files": {}}


def _effective(run: Run) -> dict[str, str]:
    """The first rank's effective settings and, where the suite chose the engine, why."""
    settings = dict(run.ranks[0]["effective"]) if run.ranks else {}
    return {"engine": f"{run.config.pipeline_name}: {because}", **settings} if (because := run.config.engine_because) else settings


def _devices(run: Run) -> str:
    names = [str(rank["device"]) for rank in run.ranks]
    kinds = sorted({n.split(":")[0] for n in names})
    size = run.config.parallel.size  # one rank per replica is listed
    return ", ".join(f"{size * sum(n.split(':')[0] == kind for n in names)} x {kind}" for kind in kinds) or "none"


def _sample(run: Run, record: Any, scores: Mapping[int, Mapping[str, float]], triggered: Mapping[str, list[str]]) -> dict[str, Any]:
    sample = run.samples[record.sample_index]
    return {
        "query_id": record.query_id,
        "sample_index": record.sample_index,
        "prompt": sample.prompt,
        "status": record.status,
        "error": record.error,
        "media": record.media,
        "text": record.text,
        "num_units": record.num_units,
        "finish_reason": record.finish_reason,
        "expected": sample.meta.get("answer"),
        "task": sample.meta.get("task"),
        "held_out": sample.meta.get("held_out"),
        "grade": sample.meta.get("grade"),
        "scores": dict(scores.get(record.query_id, {})),
        "canaries": triggered.get(label_of(run, record), []),
    }
