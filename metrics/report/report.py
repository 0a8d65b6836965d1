"""report.json: the contract. Rebuilt from a run folder alone, without a model or a GPU.

schema, run, workload, scenario, mode, rules, benchmark, notice (that MLCommons verified nothing of it), verdict with reasons, notes (how a
run by MLPerf's rules made its answers otherwise than the reference does), device, effective, limits, loadgen, agreement, figures
(name -> value, unit, better, n, ci95, note), canaries (answers that show the sign), alarms (the canaries that sing) and loosened (those
that the run was told to bear: off, or a share), truth
(name, result and what was told of each truth check), gates (figure, value, target, at_least, at_most, holds, why; validity/gates.py),
ranks,
samples (per judged answer: prompt, media or text, scores), search (of the highest rate, where there was one), brief (where figures were
left out). Nothing in it depends on when or in which folder it is made.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from configs.errors import ConfigError, PluginError
from configs.registry import find, make, plugin_file
from metrics.base import Figure, Run, SampleMetric
from metrics.performance import energy
from metrics.performance.goodput import limits_in_force
from metrics.validity import canaries, effective_settings, gates, loadgen_agreement, truth_checks
from metrics.validity.check import Check
from metrics.validity.mlperf_rules import departures
from workloads.loadgen.load_test import read_summary
from workloads.mlperf.notices import differences_from_reference, notice
from workloads.mlperf.run_rules import benchmark_of
from workloads.run_folder import manifest
from workloads.run_folder.files import read_run, write_json
from workloads.run_folder.record_log import without_record
from workloads.run_folder.search import read_search

SCHEMA = "triptych-report/1"
# The figures that say most of answers' quality, one a kind.
QUALITY = (
    "world_score",
    "exact_match",
    "rouge_l",
    "hierarchical_f1",
    "gpt_oss_accuracy",
    "deepseek_r1_accuracy",
    "vbench",
    "first_frame_psnr",
)

# How the figures begin that say how good answers are.
OF_QUALITY = (
    *("world_", "exact_match", "rouge_", "hierarchical_", "category_", "brand_", "is_secondhand_", "secondhand_"),
    *("temporal_", "motion_", "dynamic_", "vbench", "gpt_oss_", "deepseek_", "accuracy", "first_frame_"),
)


@dataclass(frozen=True, slots=True)
class Report:
    """A report.json and the run it is of."""

    run: Run
    data: Mapping[str, Any]

    @property
    def valid(self) -> bool:
        return bool(self.data["verdict"] == "VALID")


def load_run(folder: Path) -> Run:
    """The run in the folder. Raises ConfigError where it is none, naming the file."""
    config, samples, records, outcome = read_run(folder)
    return Run(folder, config, _plugin(folder, "workloads", config.workload)(), samples, records, outcome)


def build_report(folder: Path, brief: bool = False) -> Report:
    """Compute every metric and the verdict, and write report.json.

    brief: verdict and reasons alone, without a look at any answer; for a run that was given up.
    """
    report = make_report(folder, brief)
    write_json(folder / "report.json", report.data)
    return report


def own_metrics(run: Run) -> Sequence[str]:
    """Names of the metrics that the run is reported by."""
    return run.config.metrics or run.workload.default_metrics


def measured(run: Run, names: Sequence[str]) -> tuple[dict[str, dict[str, Any]], dict[int, dict[str, float]]]:
    """Figures of these metrics, as report.json has them, and scores of single answers by query id."""
    figures, scores = _figures(run, names)
    return {name: _plain(figure) for name, figure in figures.items()}, scores


def make_report(folder: Path, brief: bool = False) -> Report:
    """As `build_report`, and nothing is written."""
    run = load_run(folder)
    figures, scores = _figures(run, () if brief else own_metrics(run))
    shown = {} if brief else canaries.listen(run)
    alarms = canaries.alarms(run, shown)
    compared = [] if brief else loadgen_agreement.compare(run)
    ranks = _ranks(run)
    checks = effective_settings.checks(run, ranks) if brief else truth_checks.checks(run, ranks, _issued(run), _failed(run))
    held = [] if brief else gates.hold(run, figures)
    reasons = manifest.modifications(folder) + _reasons(run, alarms, compared, checks) + _broken_rules(run) + gates.reasons(held)
    if not reasons and not manifest.is_sealed(folder):
        reasons = ["manifest.json was never sealed: the run was ended before its files were hashed, so that no later change would show"]
    if reasons:
        figures = energy.withheld(figures)
    search = read_search(folder)
    data = {
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
        "random_weights": has_random_weights(run),
        "effective": _ranks(run)[0]["effective"] if _ranks(run) else {},
        "num_queries": {"issued": _issued(run), "done": sum(r.status == "done" for r in run.records), "failed": _failed(run)},
        "limits": {"percentile": run.config.load.target_percentile} | limits if (limits := limits_in_force(run.config.limits)) else {},
        "loadgen": {mode: read_summary(folder / mode) for mode in run.outcome},
        "agreement": [asdict(c) | {"agrees": c.agrees} for c in compared],
        "figures": {name: _plain(figure) for name, figure in figures.items()},
        "canaries": {name: sum(name in names for names in shown.values()) for name in (() if brief else canaries.applying(run))},
        "alarms": list(alarms),
        "loosened": canaries.loosened(run),
        "truth": [asdict(check) for check in checks],
        "gates": [asdict(gate) for gate in held],
        "ranks": _ranks(run),
        "samples": [_sample(run, record, scores, shown) for record in (() if brief else run.judged)],
    }
    if brief:
        data["brief"] = True
    if search is not None:
        data["search"] = msgspec.to_builtins(search)
    return Report(run, data)


def load_report(folder: Path) -> Report:
    """A report as it was written. Raises ConfigError where there is none, or it is damaged."""
    if not folder.is_dir():
        raise ConfigError(f"run folder {str(folder)!r} does not exist")
    path = folder / "report.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{str(folder)!r} has no report.json; run: suite.py report {folder}") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is damaged: {error}; run: suite.py report {folder}") from None
    parts = {"reasons": list, "figures": dict, "samples": list}
    if not isinstance(data, dict) or not all(isinstance(data.get(name), kind) for name, kind in parts.items()):
        raise ConfigError(f"{path} is damaged: it is no report of this suite; run: suite.py report {folder}")
    return Report(load_run(folder), data)


def has_random_weights(run: Run) -> bool:
    """Whether the model was drawn, not trained: nothing that it says is any model's quality."""
    return run.config.pipeline_options.get("weights") == "random"


def _figures(run: Run, names: Sequence[str]) -> tuple[dict[str, Figure], dict[int, dict[str, float]]]:
    """By these metrics; scores by query id. Of random weights no quality is told."""
    figures: dict[str, Figure] = {}
    scores: dict[int, dict[str, float]] = {}
    for name in names:
        _plugin(run.folder, "metrics", name)
        metric = make("metrics", name, {})
        if isinstance(metric, SampleMetric):
            by_query = metric.scores(run)
            by_mean = type(metric).compute is SampleMetric.compute  # else its figure is no mean of the samples' scores
            figures |= metric.summarise(by_query) if by_mean else metric.compute(run)
            for query_id, found in by_query.items():
                scores.setdefault(query_id, {}).update(found)
        else:
            figures |= metric.compute(run)
    if has_random_weights(run):
        return {name: _withheld(name, figure) for name, figure in figures.items()}, {}
    return figures, scores


def _withheld(name: str, figure: Figure) -> Figure:
    """A figure of quality, without its value."""
    if figure.value is None or not name.startswith(OF_QUALITY):
        return figure
    return replace(figure, value=None, ci95=None, note="withheld: random weights have no quality")


def headline(report: Report) -> dict[str, float]:
    """The few figures that a last line shows: throughput or latency, then quality."""
    noun, unit = report.run.workload.noun, report.run.workload.unit
    wanted = (f"{noun}_per_s", f"{unit}_per_s", "goodput_per_s", "ttft_p90", "tpot_p90", "latency_p90", *QUALITY)
    figures = report.data["figures"]
    return {name: figures[name]["value"] for name in wanted if figures.get(name, {}).get("value") is not None}


def _name(folder: Path) -> str:
    """As the run was made; its folder may have been moved since."""
    try:
        return str(manifest.read_manifest(folder)["run"])
    except (ValueError, KeyError):
        return folder.resolve().name


def _plugin(folder: Path, kind: str, name: str) -> type[Any]:
    """As the run had it. Raises PluginError where it is not here, or was a plugin file's that is not given now, saying which."""
    try:
        origin = str(manifest.read_manifest(folder)["plugins"].get(f"{kind.removesuffix('s')} {name}", ""))
    except (ValueError, KeyError, AttributeError):
        origin = ""
    from_file = origin.startswith("plugins/")
    try:
        found: type[Any] = find(kind, name)
        if not from_file or plugin_file(kind, name):
            return found
    except PluginError:
        if not origin:
            raise
    fix = f"read {str(folder / origin)!r}, then give it as --plugin" if from_file else "install it"
    raise PluginError(f"{kind.removesuffix('s')} {name!r} came to the run from {origin!r}, and is not here; {fix}")


def _reasons(run: Run, alarms: Mapping[str, list[int]], compared: list[loadgen_agreement.Comparison], checks: Sequence[Check]) -> list[str]:
    """Why the run is INVALID; empty where it is VALID."""
    found = []
    modes = ("performance", "accuracy") if run.config.mode == "both" else (run.config.mode,)
    for mode in modes:
        if mode not in run.outcome:
            found.append(f"the {mode} test never ended: outcome.json says nothing of it; all its processes were killed, or it still runs")
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
    num_failed = _failed(run)
    if num_failed:
        causes = {o.get("aborted") for o in run.outcome.values()}
        first = next((r for r in run.records if r.status == "failed" and r.error not in causes), None)
        found.append(
            f"{num_failed} of {_issued(run)} queries failed or never finished"
            + (f"; first: {first.error} (rank {first.rank})" if first else "")
        )
    if not any(r.status == "done" for r in run.records):
        found.append("no query was answered")
    found += [
        f"own {c.name} {c.own:.6g} and LoadGen's {c.loadgen:.6g} {c.unit} differ by more than {loadgen_agreement.TOLERANCE:.0%}"
        for c in compared
        if not c.agrees
    ]
    found += [f"canary {name!r}: {len(hits)} of {len(run.judged)} answers, first query {min(hits)}" for name, hits in alarms.items()]
    found += [f"truth check {check.name!r}: {check.told}" for check in checks if check.result == "differs"]
    left_in_order = not any(o.get("aborted") for o in run.outcome.values())  # else the cause is told, and this is what followed
    found += [f"rank {rank['rank']}: {rank['error']}" for rank in _ranks(run) if rank.get("error") and left_in_order]
    return found


def _broken_rules(run: Run) -> list[str]:
    """What of MLPerf's rules was not kept, where the run is judged by them."""
    if not run.config.by_mlperf:
        return []
    benchmark = benchmark_of(run.config)
    ended = [mode for mode, outcome in run.outcome.items() if not outcome.get("aborted")]
    found = [told for mode in ended for told in departures(run.folder / mode, benchmark, run.config.scenario, mode)]
    if has_random_weights(run):
        found.append(f"random weights are not the model of {benchmark.name}; --set rules=quick for its speed alone")
    return found


def _loadgen_why(summary: Mapping[str, str]) -> str:
    checks = ("Min duration satisfied", "Min queries satisfied", "Early stopping satisfied", "Performance constraints satisfied")
    failed = [name.removesuffix(" satisfied").lower() for name in checks if summary.get(name, "Yes").upper().startswith("N")]
    advice = [summary[k] for k in summary if k.startswith("Recommendations")]
    return ", ".join(failed + advice) + " not satisfied" if failed else "see mlperf_log_summary.txt"


def _issued(run: Run) -> int:
    """As the outcome says; of a test without one, what its conductor noted."""
    found = 0
    for mode in ("performance", "accuracy"):
        num_issued = run.outcome.get(mode, {}).get("num_issued")
        records = run.of_mode(mode)
        found += len(records) + len(without_record(run.folder, mode, records)) if num_issued is None else int(num_issued)
    return found


def _failed(run: Run) -> int:
    """Queries without an answer: failed ones, and ones that never left a record."""
    failed = sum(r.status == "failed" for r in run.records)
    return failed + max(_issued(run) - len(run.records), 0)


def _ranks(run: Run) -> list[dict[str, Any]]:
    return next((list(o["ranks"]) for o in reversed(list(run.outcome.values())) if o.get("ranks")), [])


def _devices(run: Run) -> str:
    names = [str(rank["device"]) for rank in _ranks(run)]
    kinds = sorted({n.split(":")[0] for n in names})
    size = run.config.parallel.size  # of a replica, one rank is listed
    return ", ".join(f"{size * sum(n.split(':')[0] == kind for n in names)} x {kind}" for kind in kinds) or "none"


def _plain(figure: Figure) -> dict[str, Any]:
    """JSON knows no NaN: such a value is None, with a note."""
    if figure.value is not None and not math.isfinite(figure.value):
        figure = replace(figure, value=None, ci95=None, note=figure.note or "not a finite number")
    plain = asdict(figure)
    plain["ci95"] = list(figure.ci95) if figure.ci95 else None
    return plain


def _sample(run: Run, record: Any, scores: Mapping[int, Mapping[str, float]], shown: Mapping[int, list[str]]) -> dict[str, Any]:
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
        "canaries": shown.get(record.query_id, []),
    }
