"""A run under MLPerf's rules: what they fill into its configuration, and what they refuse before it starts.

`load` may set the rate, and may be stricter: longer, more queries, tighter limits. Weaker settings are refused with the fix, because such a
run takes at least ten minutes and can only be INVALID. After the run LoadGen's own log is compared with the rules
(metrics/validity/mlperf_rules.py).
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
    """Return the configuration with MLPerf's rules filled in; unchanged under `quick` rules. Idempotent.

    Raises ConfigError naming the setting that contradicts the rules, what they require, and the fix.
    """
    if not config.by_mlperf:
        if config.benchmark is not None:
            shown_benchmark(config)
        return config
    if config.rules == "mlperf":
        config = config.model_copy(update={"rules": f"mlperf-{embedded_round()}"})
    mlperf = benchmark_of(config)
    rules = mlperf.of(config.scenario)
    if config.workload != mlperf.workload:
        raise ConfigError(f"benchmark {mlperf.name!r} requires workload {mlperf.workload!r}, got {config.workload!r}")
    if config.mode == "both" and rules.data("performance") != rules.data("accuracy"):
        (first, count), (second, accuracy_count) = rules.data("performance"), rules.data("accuracy")
        raise ConfigError(
            f"{_by(mlperf)} uses {count} samples of {first} for performance and {accuracy_count} of {second} for accuracy. Make two runs: "
            f"--mode performance --set dataset.source={first}, and --mode accuracy --set dataset.source={second}"
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
            raise _refusal(mlperf, f"load.{name}", getattr(load, name), f"at least {least:g}")
    if config.is_server:
        if "target_percentile" in given and load.target_percentile != rules.percentile:
            raise _refusal(mlperf, "load.target_percentile", load.target_percentile, f"{rules.percentile:g}")
        limits = _tightened(config, mlperf, rules)
        changes |= {"target_percentile": rules.percentile}
        changes |= {"interactive": limits} if config.scenario == "interactive" else _server_limits(limits)
    return config.model_copy(update={"load": load.model_copy(update=changes)})


def check_data(config: RunConfig, num_samples: int) -> None:
    """Raises ConfigError if MLPerf's rules require another data set, or all of it; naming both."""
    if not config.by_mlperf:
        return
    mlperf = benchmark_of(config)
    source, count = mlperf.of(config.scenario).data(config.mode)
    given = config.dataset.get("source")
    if given != source:
        raise ConfigError(
            f"{_by(mlperf)} requires {count} samples of {mlperf.dataset} in mode {config.mode}, and dataset.source is {given!r}. "
            f"Use --set dataset.source={source}, or --set rules=quick for any data set"
        )
    if num_samples != count:
        part = f"dataset.num_prompts={config.dataset['num_prompts']} leaves" if config.dataset.get("num_prompts") else "the data set has"
        raise ConfigError(
            f"{_by(mlperf)} requires all {count} samples of {source}, and {part} {num_samples}. Use --set rules=quick for a part of it"
        )


def check_generation(config: RunConfig, pipeline: object) -> None:
    """Raises ConfigError if an option of the pipeline differs from what MLPerf's rules require; naming it and the fix."""
    if not config.by_mlperf:
        return
    mlperf = benchmark_of(config)
    for name in ("enable_prefix_caching", "mm_processor_cache_gb"):  # inference_rules.adoc: no caching of queries or intermediate results
        if value := getattr(pipeline, name, 0):
            raise ConfigError(
                f"pipeline.{name} is {value}, and {_by(mlperf)} prohibits caching between queries. "
                f"Use --set pipeline.{name}=0, or --set rules=quick"
            )
    for rule, setting in mlperf.generation(config.mode).items():
        name, required = _option_for(rule, setting, pipeline)
        value = getattr(pipeline, name, required)
        if value != required:
            raise ConfigError(
                f"pipeline.{name} is {_short(value)}, and {_by(mlperf)} requires {_short(required)} in mode {config.mode}. "
                f"Use --set pipeline.{name}={_short('null' if required is None else required)}, or --set rules=quick"
            )


def _option_for(name: str, setting: Setting, pipeline: object) -> tuple[str, Setting]:
    """The rule as an option of this pipeline: one without do_sample decodes greedily at temperature 0."""
    if name == "do_sample" and setting is False and not hasattr(pipeline, name):
        return "temperature", 0.0
    return name, setting


def _short(value: object) -> str:
    return f"'{value[:40]} ...' (as in preset t2v/wan2.2-t2v-a14b)" if isinstance(value, str) and len(value) > 80 else f"{value}"


def benchmark_of(config: RunConfig) -> Benchmark:
    """The benchmark whose rules the run follows. Raises ConfigError if it names none, or one that its round does not have."""
    round_ = embedded_round() if config.rules == "mlperf" else config.rules.removeprefix("mlperf-")
    if config.benchmark is None:
        known = ", ".join(ROUNDS.get(round_, ROUNDS["v6.1"]))
        raise ConfigError(f"rules {config.rules!r} require a benchmark: --set benchmark=NAME, or --set rules=quick; known: {known}")
    return benchmark(config.benchmark, round_)


def scenario_rules(config: RunConfig) -> ScenarioRules | None:
    """MLPerf's requirements of the run's scenario; None under the suite's own rules."""
    return benchmark_of(config).of(config.scenario) if config.by_mlperf else None


def shown_benchmark(config: RunConfig) -> Benchmark | None:
    """The benchmark whose gates a report shows: in the rules' round, else in the last round that has it. None if the run names none."""
    if config.benchmark is None:
        return None
    if config.by_mlperf:
        return benchmark_of(config)
    last = max((round_ for round_, table in ROUNDS.items() if config.benchmark in table), default=max(ROUNDS))
    return benchmark(config.benchmark, last)


@functools.cache
def embedded_round() -> str:
    """The round whose seeds the installed LoadGen has in its own mlperf.conf. Raises ConfigError if that round is unknown.

    The text is read from the library's file, because LoadGen reads its mlperf.conf only once in a process, and the test needs that once.
    """
    spec = importlib.util.find_spec("mlperf_loadgen")
    if spec is None or spec.origin is None:
        raise ConfigError("rules 'mlperf' require LoadGen: pip install mlcommons-loadgen")
    embedded = re.search(rb"\*\.\*\.qsl_rng_seed = (\d+)", Path(spec.origin).read_bytes())
    seed = int(embedded[1]) if embedded else None
    for round_, seeds in SEEDS.items():
        if seeds.qsl == seed:
            return round_
    raise ConfigError(
        f"the installed LoadGen belongs to an unknown round (its qsl_rng_seed is {seed}); name a known one: "
        + ", ".join(f"--set rules=mlperf-{round_}" for round_ in SEEDS)
    )


def _tightened(config: RunConfig, mlperf: Benchmark, rules: ScenarioRules) -> Limits:
    """The rules' limits, or the run's own where they are tighter."""
    given: Mapping[str, float | None] = {}
    if config.scenario == "server":
        given = {name: getattr(config.load, name) for name in _LIMITS if name in config.load.model_fields_set}
    elif config.load.interactive is not None:
        given = config.load.interactive.model_dump()
    limits = rules.limits.model_dump()
    for name, value in given.items():
        limit = limits[name]
        if value is None or (limit is None and name == "target_latency_s"):  # not judged with limits on tokens
            continue
        option = f"load.{name}" if config.scenario == "server" else f"load.interactive.{name}"
        if limit is None:
            raise _refusal(mlperf, option, value, "no limit on tokens, because the latency of the whole answer is judged")
        if value > limit:
            raise _refusal(mlperf, option, value, f"at most {limit:g}")
        limits[name] = value
    return Limits.model_validate(limits)


def _server_limits(limits: Limits) -> dict[str, float | None]:
    named = limits.model_dump()
    return {name: value for name, value in named.items() if value is not None or name != "target_latency_s"}


def _by(mlperf: Benchmark) -> str:
    return f"{mlperf.name} by MLPerf {mlperf.round}"


def _refusal(mlperf: Benchmark, option: str, value: object, required: str) -> ConfigError:
    return ConfigError(f"{option} is {value}, and {_by(mlperf)} requires {required}. Leave {option} out, or --set rules=quick")
