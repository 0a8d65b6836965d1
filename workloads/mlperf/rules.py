"""What a benchmark of MLPerf Inference consists of: scenarios, limits, accuracy gates, and the seeds of a round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from configs.errors import ConfigError, unknown
from configs.settings import Limits, Scenario
from workloads.mlperf.generation import GENERATION, GENERATION_FOR_ACCURACY, Setting

Round = Literal["v6.0", "v6.1"]

MIN_DURATION_S = 600.0  # mlperf.conf, every scenario


class Seeds(NamedTuple):
    """LoadGen's seeds: of the library's order, of the samples' order and of the arrival times."""

    qsl: int
    sample_index: int
    schedule: int


SEEDS: dict[str, Seeds] = {
    "v6.0": Seeds(2465351861681999779, 14276810075590677512, 3936089224930324775),
    "v6.1": Seeds(2085463073848966840, 2747215439041700203, 16159082839903944936),
}


@dataclass(frozen=True, slots=True)
class Gate:
    """Bounds on a figure of the report, in MLPerf's unit: the figure times `scale`.

    figure: its name in report.json. scale: 100 where MLPerf uses percent. target: the reference model's own figure.
    metric: its name in MLPerf's accuracy.txt.
    """

    figure: str
    scale: float
    target: float
    at_least: float | None
    at_most: float | None = None
    metric: str = ""


@dataclass(frozen=True, slots=True)
class ScenarioRules:
    """The requirements of one scenario of a benchmark.

    loadgen_model: its section of mlperf.conf. source, num_samples: the performance test's data set (`dataset.source`) and its size;
    accuracy_source, num_accuracy_samples: the accuracy test's. min_query_count: the default of `load.min_query_count`, in samples for the
    offline scenario. least_query_count: the least value that a run may set.
    """

    scenario: Scenario
    required: bool
    loadgen_model: str
    source: str
    num_samples: int
    accuracy_source: str
    num_accuracy_samples: int
    min_query_count: int
    least_query_count: int
    percentile: float
    limits: Limits
    gates: tuple[Gate, ...]

    def data(self, mode: str) -> tuple[str, int]:
        """Name and size of the data set that a test of this mode uses."""
        return (self.accuracy_source, self.num_accuracy_samples) if mode == "accuracy" else (self.source, self.num_samples)


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One model of a round. name: its folder in a submission.

    by_token: LoadGen counts tokens and applies token limits to a server; else an answer is one sample. equal_issue: LoadGen issues every
    sample equally often. scenarios: at least one of those that are not required must be run. compliance: tests that a closed submission
    adds.
    """

    name: str
    round: Round
    workload: str
    dataset: str
    by_token: bool
    equal_issue: bool
    scenarios: tuple[ScenarioRules, ...]
    compliance: tuple[str, ...] = ()

    def generation(self, mode: str) -> dict[str, Setting]:
        """Required values of the pipeline's options, by name, in a test of this mode."""
        return GENERATION.get(self.name, {}) | (GENERATION_FOR_ACCURACY.get(self.name, {}) if mode == "accuracy" else {})

    @property
    def required(self) -> tuple[Scenario, ...]:
        return tuple(s.scenario for s in self.scenarios if s.required)

    @property
    def optional(self) -> tuple[Scenario, ...]:
        """Scenarios of which at least one is required."""
        return tuple(s.scenario for s in self.scenarios if not s.required)

    @property
    def num_samples(self) -> int:
        return self.scenarios[0].num_samples

    @property
    def num_accuracy_samples(self) -> int:
        return self.scenarios[0].num_accuracy_samples

    @property
    def gates(self) -> tuple[Gate, ...]:
        return self.scenarios[0].gates

    def of(self, scenario: str) -> ScenarioRules:
        """The requirements of that scenario. Raises ConfigError naming the scenarios that the benchmark has."""
        for rules in self.scenarios:
            if rules.scenario == scenario:
                return rules
        known = ", ".join(s.scenario for s in self.scenarios)
        raise ConfigError(f"benchmark {self.name!r} has no scenario {scenario!r} in MLPerf {self.round}; it has {known}")


def seeds(round_: str) -> Seeds:
    """The seeds that a submission of that round must use."""
    check_round(round_)
    return SEEDS[round_]


def check_round(round_: str) -> None:
    if round_ not in SEEDS:
        raise ConfigError(unknown("round", round_, SEEDS))
