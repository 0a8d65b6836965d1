"""Gates: what figures must reach for a run to count, of its MLPerf benchmark and of its own.

A benchmark's gates are shown wherever a run names one, and decide under MLPerf's rules in an accuracy test. The gates of
`gate:` in the configuration, or else the workload's own, decide under any rules.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from metrics.base import Figure, Run
from workloads.mlperf.rules import Benchmark, Gate, ScenarioRules
from workloads.mlperf.run_rules import shown_benchmark

# The metric that each figure of a benchmark's gate comes from.
SCORERS = {
    **dict.fromkeys(("rouge_1", "rouge_2", "rouge_l", "rouge_lsum"), "rouge"),
    **{name: name for name in ("gpt_oss_accuracy", "deepseek_r1_accuracy", "generation_length", "hierarchical_f1", "vbench")},
    "tokens_per_sample": "tokens",
}


@dataclass(frozen=True, slots=True)
class Held:
    """A gate held against a figure, as it stands in report.json. value and bounds are in the gate's unit: MLPerf speaks of percent.

    of: whose gate it is. holds: None where that cannot be said. why: how it was decided. decides: whether the verdict hangs on it.
    """

    of: str
    figure: str
    value: float | None
    target: float
    at_least: float | None
    at_most: float | None
    holds: bool | None
    decides: bool
    why: str


def hold(run: Run, figures: Mapping[str, Figure]) -> list[Held]:
    """All gates of the run: the benchmark's, then its own."""
    return [*_of_benchmark(run, figures), *_of_run(run, figures)]


def reasons(held: Sequence[Held]) -> list[str]:
    """Why the run is INVALID by its gates; empty where it is not."""
    return [f"gate of {gate.of}: {gate.why}" for gate in held if gate.decides and not gate.holds]


def bounds(gate: Gate | Held) -> str:
    """As a reader would say it."""
    parts = (("at least", gate.at_least), ("at most", gate.at_most))
    return " and ".join(f"{word} {bound:.6g}" for word, bound in parts if bound is not None)


def scenario_of(found: Benchmark, scenario: str) -> ScenarioRules:
    """The benchmark's rules of that scenario, or of its first where it has none of it."""
    return next((s for s in found.scenarios if s.scenario == scenario), found.scenarios[0])


def _of_benchmark(run: Run, figures: Mapping[str, Figure]) -> Iterator[Held]:
    found = shown_benchmark(run.config)
    if found is None:
        return
    decides = run.config.by_mlperf and run.config.mode != "performance"
    scenario = scenario_of(found, run.config.scenario)
    for gate in scenario.gates:
        yield _held(f"{found.name} in MLPerf {found.round}", gate, figures, decides, _untold(run, gate, scenario, figures.get(gate.figure)))


def _untold(run: Run, gate: Gate, rules: ScenarioRules, figure: Figure | None) -> str:
    """Why the figure says nothing of a benchmark's gate: it must be of all samples. Empty where it does."""
    scorer, metrics = SCORERS[gate.figure], run.metric_names
    if run.has_random_weights:
        return "random weights have no quality"
    if figure is None:
        given, wanted = run.config.dataset.get("source"), rules.accuracy_source
        why = f"dataset.source is {given!r}, not {wanted!r}" if given != wanted else ""
        why += f"{' and ' if why else ''}`metrics` leave out {scorer!r}" if scorer not in metrics else ""
        return f"the run has no figure {gate.figure!r}: {why or f'metric {scorer!r} scores none of its answers'}"
    asked = len(run.samples if run.of_mode("accuracy") else run.judged)
    if figure.value is not None and figure.n < asked:
        return f"{gate.figure} is of {figure.n} of {asked} samples alone"
    return ""


def _of_run(run: Run, figures: Mapping[str, Figure]) -> Iterator[Held]:
    """A figure of which less is better must not exceed its gate; any other must reach it."""
    own = run.config.gate
    of = "the workload" if own is None else "the run"
    for name, bound in (run.workload.default_gate if own is None else own).items():
        lower = name in figures and figures[name].better == "lower"
        yield _held(of, Gate(name, 1.0, bound, None if lower else bound, bound if lower else None), figures, decides=True)


def _held(of: str, gate: Gate, figures: Mapping[str, Figure], decides: bool, untold: str = "") -> Held:
    """untold: why the figure, if there is one, does not count."""
    figure = figures.get(gate.figure)
    value = None if figure is None or figure.value is None else figure.value * gate.scale
    if untold:
        holds, value, told = None, None, untold
    elif figure is None or value is None or not math.isfinite(value):
        holds, value = None, None
        told = (
            f"the run has no figure {gate.figure!r}" if figure is None else f"{gate.figure} has no value: {figure.note or 'not a number'}"
        )
    else:
        holds = (gate.at_least is None or value >= gate.at_least) and (gate.at_most is None or value <= gate.at_most)
        told = f"{gate.figure} is {value:.6g}"
    why = f"{told}, {'and' if holds else 'where'} {bounds(gate)} is asked"
    return Held(of, gate.figure, value, gate.target, gate.at_least, gate.at_most, holds, decides, why)
