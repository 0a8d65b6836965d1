"""Gates: bounds that figures must meet for a run to be VALID, from its MLPerf benchmark and from its own configuration.

The gates of a benchmark are shown wherever a run names one, and decide the verdict under MLPerf's rules in an accuracy test. The gates of
`gate:` in the configuration, or else of the workload, decide it under any rules.
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
class GateResult:
    """A gate compared with a figure, as report.json holds it. value and bounds are in the gate's unit, which MLPerf gives in percent.

    of: whose gate it is. holds: None where it cannot be decided. why: the comparison in words. decides: whether the verdict depends on it.
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


def evaluate(run: Run, figures: Mapping[str, Figure]) -> list[GateResult]:
    """All gates of the run: the benchmark's, then its own."""
    return [*_of_benchmark(run, figures), *_of_run(run, figures)]


def reasons(results: Sequence[GateResult]) -> list[str]:
    """Why the run is INVALID by its gates; empty where it is not."""
    return [f"gate of {gate.of}: {gate.why}" for gate in results if gate.decides and not gate.holds]


def bounds(gate: Gate | GateResult) -> str:
    """The bounds in words, such as `at least 0.9 and at most 1`."""
    parts = (("at least", gate.at_least), ("at most", gate.at_most))
    return " and ".join(f"{word} {bound:.6g}" for word, bound in parts if bound is not None)


def scenario_of(benchmark: Benchmark, scenario: str) -> ScenarioRules:
    """The benchmark's rules for that scenario, or for its first one where it has none."""
    return next((s for s in benchmark.scenarios if s.scenario == scenario), benchmark.scenarios[0])


def _of_benchmark(run: Run, figures: Mapping[str, Figure]) -> Iterator[GateResult]:
    benchmark = shown_benchmark(run.config)
    if benchmark is None:
        return
    decides = run.config.by_mlperf and run.config.mode != "performance"
    scenario = scenario_of(benchmark, run.config.scenario)
    for gate in scenario.gates:
        undecided = _why_undecided(run, gate, scenario, figures.get(gate.figure))
        yield _evaluate(f"{benchmark.name} in MLPerf {benchmark.round}", gate, figures, decides, undecided)


def _why_undecided(run: Run, gate: Gate, rules: ScenarioRules, figure: Figure | None) -> str:
    """Why the figure cannot decide a benchmark's gate, which needs all samples; empty where it can."""
    scorer, metrics = SCORERS[gate.figure], run.metric_names
    if run.has_random_weights:
        return "random weights have no quality"
    if figure is None:
        source, required = run.config.dataset.get("source"), rules.accuracy_source
        why = f"dataset.source is {source!r}, not {required!r}" if source != required else ""
        why += f"{' and ' if why else ''}`metrics` does not name {scorer!r}" if scorer not in metrics else ""
        return f"the run has no figure {gate.figure!r}: {why or f'metric {scorer!r} scores none of its answers'}"
    num_samples = len(run.samples if run.of_mode("accuracy") else run.judged)
    if figure.value is not None and figure.n < num_samples:
        return f"{gate.figure} covers {figure.n} of {num_samples} samples"
    return ""


def _of_run(run: Run, figures: Mapping[str, Figure]) -> Iterator[GateResult]:
    """The gate is an upper bound where lower figures are better, else a lower bound."""
    own = run.config.gate
    of = "the workload" if own is None else "the run"
    for name, bound in (run.workload.default_gate if own is None else own).items():
        lower = name in figures and figures[name].better == "lower"
        yield _evaluate(of, Gate(name, 1.0, bound, None if lower else bound, bound if lower else None), figures, decides=True)


def _evaluate(of: str, gate: Gate, figures: Mapping[str, Figure], decides: bool, undecided: str = "") -> GateResult:
    """undecided: why the figure, if there is one, cannot decide."""
    figure = figures.get(gate.figure)
    value = None if figure is None or figure.value is None else figure.value * gate.scale
    if undecided:
        holds, value, why = None, None, undecided
    elif figure is None or value is None or not math.isfinite(value):
        holds, value = None, None
        why = f"the run has no figure {gate.figure!r}" if figure is None else f"{gate.figure} has no value: {figure.note or 'not a number'}"
    else:
        holds = (gate.at_least is None or value >= gate.at_least) and (gate.at_most is None or value <= gate.at_most)
        why = f"{gate.figure} is {value:.6g}"
    why += f" (must be {bounds(gate)})"
    return GateResult(of, gate.figure, value, gate.target, gate.at_least, gate.at_most, holds, decides, why)
