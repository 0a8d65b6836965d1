"""A run under MLPerf's rules: what they fill into its configuration, what they refuse before it starts.

`load` may set the rate and ask for more: longer, more queries, tighter limits. What would ask for less is refused with the
fix, since such a run takes ten minutes at least and could only be INVALID. LoadGen's own log is held against the rules
once more afterwards (metrics/validity/mlperf_rules.py).
"""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.errors import ConfigError
from configs.run_config import RunConfig
from configs.settings import Limits
from workloads.mlperf.benchmarks import ROUNDS, benchmark
from workloads.mlperf.generation import Setting
from workloads.mlperf.rules import MIN_DURATION_S, SEEDS, Benchmark, ScenarioRules

_LIMITS = ("target_latency_s", "target_ttft_s", "target_tpot_s")


def apply_mlperf_rules(config: RunConfig) -> RunConfig:
    """The configuration that the run goes by; the same where its rules are `quick`. Twice is as good as once.

    Raises ConfigError naming the setting that contradicts the rules, what they ask for, and the fix.
    """
    if not config.by_mlperf:
        if config.benchmark is not None:
            shown_benchmark(config)
        return config
    if config.rules == "mlperf":
        config = config.model_copy(update={"rules": f"mlperf-{embedded_round()}"})
    found = benchmark_of(config)
    rules = found.of(config.scenario)
    if config.workload != found.workload:
        raise ConfigError(f"benchmark {found.name!r} is of workload {found.workload!r}, and this run is of {config.workload!r}")
    if config.mode == "both" and rules.data("performance") != rules.data("accuracy"):
        (first, count), (second, accuracy_count) = rules.data("performance"), rules.data("accuracy")
        raise ConfigError(
            f"{_by(found)} asks {count} samples of {first} for speed and {accuracy_count} of {second} for accuracy: make two runs, "
            f"--mode performance --set dataset.source={first} and --mode accuracy --set dataset.source={second}"
        )
    load, given = config.load, config.load.model_fields_set
    changes: dict[str, Any] = {}
    for name, least, default in (
        ("min_duration_s", MIN_DURATION_S, MIN_DURATION_S),
        ("min_query_count", rules.least_query_count, rules.min_query_count),
    ):
        if name not in given:
            changes[name] = default
        elif getattr(load, name) < least:
            raise _refusal(found, f"load.{name}", getattr(load, name), f"at least {least:g}")
    if config.is_server:
        if "target_percentile" in given and load.target_percentile != rules.percentile:
            raise _refusal(found, "load.target_percentile", load.target_percentile, f"{rules.percentile:g}")
        limits = _tightened(config, found, rules)
        changes |= {"target_percentile": rules.percentile}
        changes |= {"interactive": limits} if config.scenario == "interactive" else _server_limits(limits)
    return config.model_copy(update={"load": load.model_copy(update=changes)})


def check_data(config: RunConfig, num_samples: int) -> None:
    """Raises ConfigError where MLPerf's rules ask another data set, or not all of it; naming both."""
    if not config.by_mlperf:
        return
    found = benchmark_of(config)
    source, count = found.of(config.scenario).data(config.mode)
    given = config.dataset.get("source")
    if given != source:
        raise ConfigError(
            f"{_by(found)} asks {count} samples of {found.dataset} in a run of mode {config.mode}, and dataset.source is {given!r}; "
            f"--set dataset.source={source}, or --set rules=quick for any data set"
        )
    if num_samples != count:
        part = f"dataset.num_prompts={config.dataset['num_prompts']} leaves" if config.dataset.get("num_prompts") else "the data set has"
        raise ConfigError(
            f"{_by(found)} asks all {count} samples of {source}, and {part} {num_samples}; --set rules=quick for a part of it"
        )


def check_generation(config: RunConfig, pipeline: object) -> None:
    """Raises ConfigError where an option of the pipeline makes answers otherwise than MLPerf's rules ask; naming it and the fix."""
    if not config.by_mlperf:
        return
    found = benchmark_of(config)
    for name in ("enable_prefix_caching", "mm_processor_cache_gb"):  # inference_rules.adoc: no caching of queries or intermediate results
        if value := getattr(pipeline, name, 0):
            raise ConfigError(
                f"pipeline.{name} is {value}, and {_by(found)} prohibits caching from one query to another; "
                f"--set pipeline.{name}=0, or --set rules=quick"
            )
    for rule, asked in found.generation(config.mode).items():
        name, wanted = _option_for(rule, asked, pipeline)
        value = getattr(pipeline, name, wanted)
        if value != wanted:
            raise ConfigError(
                f"pipeline.{name} is {_short(value)}, and {_by(found)} asks {_short(wanted)} in a run of mode {config.mode}; "
                f"--set pipeline.{name}={_short('null' if wanted is None else wanted)}, or --set rules=quick"
            )


def _option_for(name: str, wanted: Setting, pipeline: object) -> tuple[str, Setting]:
    """The rule in the pipeline's own words: one without do_sample takes the likeliest token at temperature 0."""
    if name == "do_sample" and wanted is False and not hasattr(pipeline, name):
        return "temperature", 0.0
    return name, wanted


def _short(value: object) -> str:
    return f"'{value[:40]} ...' (as in preset t2v/wan2.2-t2v-a14b)" if isinstance(value, str) and len(value) > 80 else f"{value}"


def benchmark_of(config: RunConfig) -> Benchmark:
    """The benchmark that the run is held to. Raises ConfigError where it names none, or none of its round."""
    round_ = embedded_round() if config.rules == "mlperf" else config.rules.removeprefix("mlperf-")
    if config.benchmark is None:
        known = ", ".join(ROUNDS.get(round_, ROUNDS["v6.1"]))
        raise ConfigError(f"rules {config.rules!r} are those of a benchmark: --set benchmark=NAME; known: {known}; or --set rules=quick")
    return benchmark(config.benchmark, round_)


def scenario_rules(config: RunConfig) -> ScenarioRules | None:
    """What LoadGen has to keep to; None under the suite's own rules."""
    return benchmark_of(config).of(config.scenario) if config.by_mlperf else None


def shown_benchmark(config: RunConfig) -> Benchmark | None:
    """The benchmark whose gates a report shows: of the rules' round, else of the last one that had it. None where none is named."""
    if config.benchmark is None:
        return None
    if config.by_mlperf:
        return benchmark_of(config)
    last = max((round_ for round_, table in ROUNDS.items() if config.benchmark in table), default=max(ROUNDS))
    return benchmark(config.benchmark, last)


@functools.cache
def embedded_round() -> str:
    """The round whose seeds the installed LoadGen has in its own mlperf.conf. Raises ConfigError where that is none we know.

    The text is read off the library: LoadGen gives its settings out once in a process, and that one is the test's.
    """
    spec = importlib.util.find_spec("mlperf_loadgen")
    if spec is None or spec.origin is None:
        raise ConfigError("rules 'mlperf' are those of the installed LoadGen, and there is none; pip install mlcommons-loadgen")
    embedded = re.search(rb"\*\.\*\.qsl_rng_seed = (\d+)", Path(spec.origin).read_bytes())
    seed = int(embedded[1]) if embedded else None
    for round_, seeds in SEEDS.items():
        if seeds.qsl == seed:
            return round_
    raise ConfigError(
        f"the installed LoadGen is of a round that is not known here (its qsl_rng_seed is {seed}); name one: "
        + ", ".join(f"--set rules=mlperf-{round_}" for round_ in SEEDS)
    )


def _tightened(config: RunConfig, found: Benchmark, rules: ScenarioRules) -> Limits:
    """The rules' limits, or the run's own where those are tighter."""
    given: Mapping[str, float | None] = {}
    if config.scenario == "server":
        given = {name: getattr(config.load, name) for name in _LIMITS if name in config.load.model_fields_set}
    elif config.load.interactive is not None:
        given = config.load.interactive.model_dump()
    limits = rules.limits.model_dump()
    for name, value in given.items():
        limit = limits[name]
        if value is None or (limit is None and name == "target_latency_s"):  # nobody judges it beside limits on tokens
            continue
        option = f"load.{name}" if config.scenario == "server" else f"load.interactive.{name}"
        if limit is None:
            raise _refusal(found, option, value, "no limit on tokens: it judges the latency of the whole answer")
        if value > limit:
            raise _refusal(found, option, value, f"at most {limit:g}")
        limits[name] = value
    return Limits.model_validate(limits)


def _server_limits(limits: Limits) -> dict[str, float | None]:
    named = limits.model_dump()
    return {name: value for name, value in named.items() if value is not None or name != "target_latency_s"}


def _by(found: Benchmark) -> str:
    return f"{found.name} by MLPerf {found.round}"


def _refusal(found: Benchmark, option: str, value: object, asked: str) -> ConfigError:
    return ConfigError(f"{option} is {value}, and {_by(found)} asks {asked}; leave {option} out, or --set rules=quick")
