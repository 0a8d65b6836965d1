"""The generative benchmarks of MLPerf Inference's datacenter category, in rounds v6.0 and v6.1.

Sources: mlcommons/inference at b66003e1, loadgen/mlperf.conf (limits, durations, equal issue) and
tools/submission/submission_checker/constants.py (required scenarios, counts, accuracy targets and upper limits,
compliance tests, seeds of a round); inference_policies pull request 339 and inference pull request 2613 (Qwen3-VL's
Interactive: 1.5 s, 8000 samples, its own target). A test compares the table with the mlperf.conf that LoadGen has embedded.
Where mlperf.conf and the checker differ, the checker's figure is the least and mlperf.conf's is the default: Wan's Offline has 248 samples
by default, and at least 50.
Left out: the checker's `min-queries` of 270336 for Server and 1024 for SingleStream, which it does not enforce where LoadGen stops early.
LoadGen's own early stopping decides.
"""

from __future__ import annotations

from dataclasses import replace

from configs.errors import ConfigError, unknown
from configs.settings import Limits
from workloads.mlperf.rules import Benchmark, Gate, Round, ScenarioRules, check_round

LOADGEN_QUERY_COUNT = 100  # LoadGen's own default of min_query_count, where mlperf.conf sets none
EARLY_STOPPING_P90 = 64  # fewest queries from which LoadGen estimates a 90th percentile
SERVER_PERCENTILE, OTHER_PERCENTILE = 0.99, 0.90


def benchmark(name: str, round_: str) -> Benchmark:
    """The benchmark in that round. Raises ConfigError naming the known ones."""
    check_round(round_)
    table = ROUNDS[round_]
    if name not in table:
        others = [r for r in ROUNDS if name in ROUNDS[r]]
        if others:
            raise ConfigError(f"benchmark {name!r} is not part of MLPerf {round_}, only of {', '.join(others)}; known: {', '.join(table)}")
        raise ConfigError(unknown("benchmark", name, table))
    return table[name]


def _limits(latency_s: float | None = None, ttft_s: float | None = None, tpot_s: float | None = None) -> Limits:
    return Limits(target_latency_s=latency_s, target_ttft_s=ttft_s, target_tpot_s=tpot_s)


def _one(source: str, count: int) -> tuple[tuple[str, int], tuple[str, int]]:
    """The same data set for both tests."""
    return (source, count), (source, count)


def _at_least(figure: str, metric: str, target: float, share: float, scale: float = 100.0) -> Gate:
    return Gate(figure, scale, target, target * share, metric=metric)


def _within_a_tenth(figure: str, metric: str, target: float) -> Gate:
    return Gate(figure, 1.0, target, target * 0.9, target * 1.1, metric)


def _language(
    name: str,
    round_: Round,
    loadgen_model: str,
    dataset: str,
    sources: tuple[tuple[str, int], tuple[str, int]],
    server_s: tuple[float, float],
    interactive_s: tuple[float, float],
    gates: tuple[Gate, ...],
    compliance: tuple[str, ...],
) -> Benchmark:
    """A benchmark of a language model: Offline is required, and Server or Interactive.

    sources: `dataset.source` and count, of the performance and of the accuracy test. server_s, interactive_s: limits of TTFT and
    TPOT.
    """
    (_, num_samples), _ = sources
    offline = ScenarioRules(
        "offline", True, loadgen_model, *sources[0], *sources[1], num_samples, num_samples, OTHER_PERCENTILE, _limits(), gates
    )
    server = replace(
        offline,
        scenario="server",
        required=False,
        min_query_count=LOADGEN_QUERY_COUNT,
        least_query_count=1,
        percentile=SERVER_PERCENTILE,
        limits=_limits(None, *server_s),
    )
    interactive = replace(
        server, scenario="interactive", loadgen_model=f"{loadgen_model}-interactive", limits=_limits(None, *interactive_s)
    )
    return Benchmark(name, round_, "llm", dataset, True, True, (offline, server, interactive), compliance)


def _llama2(name: str, round_: Round, share: float) -> Benchmark:
    gates = (
        _at_least("rouge_1", "ROUGE1", 44.4312, share),
        _at_least("rouge_2", "ROUGE2", 22.0352, share),
        _at_least("rouge_l", "ROUGEL", 28.6162, share),
        _within_a_tenth("tokens_per_sample", "TOKENS_PER_SAMPLE", 294.45),
    )
    return _language(name, round_, "llama2-70b", "OpenOrca", _one("openorca", 24576), (2.0, 0.2), (0.45, 0.04), gates, ("TEST06",))


def _gpt_oss(round_: Round) -> Benchmark:
    gates = (
        _at_least("gpt_oss_accuracy", "exact_match", 83.13, 0.99),
        Gate("tokens_per_sample", 1.0, 9999.0, None, 9999 * 1.1, "TOKENS_PER_SAMPLE"),  # a placeholder in the checker itself
    )
    mix, sources = "gpt-oss mix", (("gpt-oss-performance", 6396), ("gpt-oss-accuracy", 4395))
    return _language("gpt-oss-120b", round_, "gpt-oss-120b", mix, sources, (3.0, 0.08), (2.0, 0.015), gates, ("TEST07", "TEST09"))


def _deepseek(round_: Round) -> Benchmark:
    gates = (
        _at_least("deepseek_r1_accuracy", "exact_match", 81.3582, 0.99),
        _within_a_tenth("tokens_per_sample", "TOKENS_PER_SAMPLE", 3886.2274),
    )
    return _language(
        "deepseek-r1", round_, "deepseek-r1", "deepseek-r1 mix", _one("deepseek-r1", 4388), (2.0, 0.08), (1.5, 0.015), gates, ("TEST06",)
    )


def _llama3_8b(round_: Round) -> Benchmark:
    gates = (
        _at_least("rouge_1", "ROUGE1", 38.7792, 0.99),
        _at_least("rouge_2", "ROUGE2", 15.9075, 0.99),
        _at_least("rouge_l", "ROUGEL", 24.4957, 0.99),
        _at_least("rouge_lsum", "ROUGELSUM", 35.793, 0.99),
        _within_a_tenth("generation_length", "GEN_LEN", 8167644),
    )
    return _language(
        "llama3.1-8b", round_, "llama3_1-8b", "CNN/DailyMail", _one("cnn-dailymail", 13368), (2.0, 0.1), (0.5, 0.03), gates, ("TEST06",)
    )


def _qwen3_vl(round_: Round) -> Benchmark:
    """v6.0: Offline and Server. v6.1: Offline, and Server or Interactive, which has fewer samples and a target of its own.

    LoadGen 6.0.17 has no section for the interactive scenario: it uses the server's, with limit and count overridden.
    """
    name = "qwen3-vl-235b-a22b"
    gate = (_at_least("hierarchical_f1", "F1_HIERARCHICAL", 0.7903, 0.99, 1.0),)
    data = ("shopify", 48289)
    offline = ScenarioRules("offline", True, name, *data, *data, 48289, 48289, OTHER_PERCENTILE, _limits(), gate)
    server = replace(
        offline,
        scenario="server",
        required=round_ == "v6.0",
        min_query_count=LOADGEN_QUERY_COUNT,
        least_query_count=1,
        percentile=SERVER_PERCENTILE,
        limits=_limits(12.0),
    )
    interactive = replace(
        server,
        scenario="interactive",
        num_samples=8000,
        num_accuracy_samples=8000,
        limits=_limits(1.5),
        gates=(_at_least("hierarchical_f1", "F1_HIERARCHICAL", 0.7878, 0.99, 1.0),),
    )
    scenarios = (offline, server) if round_ == "v6.0" else (offline, server, interactive)
    return Benchmark(name, round_, "vlm", "Shopify product catalogue", False, True, scenarios)


def _wan(round_: Round) -> Benchmark:
    name, data = "wan-2.2-t2v-a14b", ("vbench", 248)
    gate = (_at_least("vbench", "vbench_score", 70.48, 0.99),)
    offline = ScenarioRules("offline", True, name, *data, *data, 248, 50, OTHER_PERCENTILE, _limits(), gate)
    single = replace(offline, scenario="single_stream", min_query_count=LOADGEN_QUERY_COUNT, least_query_count=EARLY_STOPPING_P90)
    return Benchmark(name, round_, "t2v", "VBench prompts", False, False, (offline, single), ("TEST04",))


def _round(round_: Round) -> dict[str, Benchmark]:
    llama2 = [_llama2("llama2-70b-99.9", round_, 0.999)]
    if round_ == "v6.0":
        llama2.insert(0, _llama2("llama2-70b-99", round_, 0.99))
    benchmarks = (*llama2, _gpt_oss(round_), _qwen3_vl(round_), _wan(round_), _deepseek(round_), _llama3_8b(round_))
    return {b.name: b for b in benchmarks}


ROUNDS: dict[str, dict[str, Benchmark]] = {"v6.0": _round("v6.0"), "v6.1": _round("v6.1")}
