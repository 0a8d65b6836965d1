"""The table of benchmarks against the mlperf.conf that LoadGen has embedded."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.workloads.conftest import ask_loadgen
from workloads.mlperf.benchmarks import ROUNDS, benchmark
from workloads.mlperf.datasets import SOURCES
from workloads.mlperf.rules import MIN_DURATION_S, Benchmark, ScenarioRules, seeds
from workloads.mlperf.run_rules import embedded_round

EMBEDDED = """
import mlperf_loadgen as lg
def settings(model, scenario):
    s = lg.TestSettings()
    s.FromConfig("", model, scenario, 1)
    return plain(s)
print(json.dumps([ask(lambda: settings(m, s)) for m, s in json.loads(sys.argv[1])]))
"""


LOADGEN = {"offline": "Offline", "server": "Server", "interactive": "Server", "single_stream": "SingleStream"}


# Entries that LoadGen 6.0.17's mlperf.conf lacks: gpt-oss's least count in Offline comes from the checker, Qwen3-VL's Interactive from the
# policies.
BEYOND_LOADGEN: dict[tuple[str, str], dict[str, Any]] = {
    ("gpt-oss-120b", "offline"): {"min_query_count": 100},
    ("qwen3-vl-235b-a22b", "interactive"): {"server_target_latency_ns": 12e9, "performance_sample_count_override": 48289},
}


def test_the_table_is_loadgens_embedded_mlperf_conf() -> None:
    table = [(b, s) for b in ROUNDS[embedded_round()].values() for s in b.scenarios]
    embedded = ask_loadgen(EMBEDDED, json.dumps([(s.loadgen_model, LOADGEN[s.scenario]) for _, s in table]))
    differences = {}
    for (mlperf, rules), theirs in zip(table, embedded, strict=True):
        beyond = BEYOND_LOADGEN.get((mlperf.name, rules.scenario), {})
        for key, value in (_ours(mlperf, rules) | beyond).items():
            if theirs[key] != pytest.approx(value):
                differences[mlperf.name, rules.scenario, key] = (value, theirs[key])
    assert differences == {}


def test_rounds_differ_only_in_seeds_scenarios_and_models() -> None:
    old, new = ROUNDS["v6.0"], ROUNDS["v6.1"]
    assert set(old) - set(new) == {"llama2-70b-99"}
    assert old["qwen3-vl-235b-a22b"].required == ("offline", "server")
    assert new["qwen3-vl-235b-a22b"].required == ("offline",)
    assert new["qwen3-vl-235b-a22b"].optional == ("server", "interactive")
    assert old["gpt-oss-120b"].scenarios == new["gpt-oss-120b"].scenarios
    assert set(seeds("v6.0")).isdisjoint(seeds("v6.1"))


@pytest.mark.parametrize(
    ("name", "lowest"),
    [
        ("llama2-70b-99.9", [44.3868, 22.0132, 28.5876, 265.005]),  # 44.4312 x 0.999 ...; 294.45 x 0.9
        ("gpt-oss-120b", [82.2987, None]),  # 83.13 x 0.99
        ("qwen3-vl-235b-a22b", [0.782397]),  # 0.7903 x 0.99
        ("wan-2.2-t2v-a14b", [69.7752]),  # 70.48 x 0.99
        ("deepseek-r1", [80.544618, 3497.60466]),  # 81.3582 x 0.99; 3886.2274 x 0.9
        ("llama3.1-8b", [38.391408, 15.748425, 24.250743, 35.43507, 7350879.6]),
    ],
)
def test_gates_are_the_published_figures_times_the_published_share(name: str, lowest: list[float | None]) -> None:
    gates = benchmark(name, "v6.1").gates
    assert [g.at_least if g.at_least is None else pytest.approx(g.at_least, abs=5e-5) for g in gates] == lowest


def _ours(mlperf: Benchmark, rules: ScenarioRules) -> dict[str, Any]:
    """The table's figures by LoadGen's names."""
    limits = rules.limits
    ours: dict[str, Any] = {
        "min_duration_ms": MIN_DURATION_S * 1000,
        "min_query_count": rules.min_query_count,
        "performance_sample_count_override": rules.num_samples,
        "sample_concatenate_permutation": mlperf.equal_issue,
        "use_token_latencies": mlperf.by_token,
        **dict(zip(("qsl_rng_seed", "sample_index_rng_seed", "schedule_rng_seed"), seeds(mlperf.round), strict=True)),
    }
    if rules.scenario in ("server", "interactive"):
        ours |= {"server_target_latency_percentile": rules.percentile, "server_target_latency_ns": (limits.target_latency_s or 0) * 1e9}
        if mlperf.by_token:
            ours |= {"ttft_latency": (limits.target_ttft_s or 0) * 1e9, "tpot_latency": (limits.target_tpot_s or 0) * 1e9}
    elif rules.scenario == "single_stream":
        ours["single_stream_target_latency_percentile"] = rules.percentile
    if rules.num_accuracy_samples != rules.num_samples:
        ours["accuracy_sample_count_override"] = rules.num_accuracy_samples
    return ours


@pytest.mark.parametrize("round_", ROUNDS)
def test_every_data_set_of_a_benchmark_may_have_the_rows_that_its_rules_count(round_: str) -> None:
    for mlperf in ROUNDS[round_].values():
        for rules in mlperf.scenarios:
            for mode in ("performance", "accuracy"):
                source, num_samples = rules.data(mode)
                assert SOURCES[source].workload == mlperf.workload
                assert num_samples in SOURCES[source].counts
