"""Text that must accompany the figures of a run: MLCommons' notices, and differences from the reference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from configs.run_config import RunConfig
from workloads.mlperf.generation import NOT_AS_REFERENCE
from workloads.mlperf.rules import Benchmark
from workloads.mlperf.run_rules import benchmark_of

TRADEMARK = (
    "The MLPerf\u2122 name and logo are registered and unregistered trademarks of MLCommons Association in the United States and other "
    "countries. All rights reserved. Unauthorized use strictly prohibited. See www.mlcommons.org for more information."
)
UNVERIFIED = "Result not verified by MLCommons Association."  # the wording that the messaging guidelines of mlcommons/policies require


def notice(config: RunConfig) -> str:
    """The notice that must accompany every figure of the run."""
    if not config.by_mlperf:
        return f"Not an MLPerf\u2122 result: judged by the suite's own quick rules, short runs. {UNVERIFIED}"
    mlperf = benchmark_of(config)
    scenario = config.scenario.replace("_", " ").title().replace(" ", "")
    return f"Unverified MLPerf\u2122 {mlperf.round} Inference {mlperf.name} {scenario}. {UNVERIFIED} {TRADEMARK}"


def notices(configs: Iterable[RunConfig]) -> str:
    """The notices of several runs, each once, and a warning if they must not be compared."""
    listed = list(configs)
    texts = list(dict.fromkeys(map(notice, listed)))
    kinds = {(c.rules, c.benchmark, c.scenario) for c in listed if c.by_mlperf} | {("quick",) for c in listed if not c.by_mlperf}
    if len(kinds) > 1 and any(c.by_mlperf for c in listed):
        texts.append("MLPerf\u2122 results may only be compared with such results of the same benchmark and scenario; not all here are.")
    return " ".join(texts)


def differences_from_reference(mlperf: Benchmark, pipeline_options: Mapping[str, Any]) -> list[str]:
    """Differences between the run's answers and the reference's that the rules allow a run to have."""
    differences = [NOT_AS_REFERENCE[mlperf.name]] if mlperf.name in NOT_AS_REFERENCE else []
    cache = pipeline_options.get("cache")
    name = cache.get("name") if isinstance(cache, Mapping) else cache
    if name not in (None, "none"):
        differences.append(f"pipeline.cache is {name}: parts of the denoiser's work are skipped, where the reference does all of it")
    return differences
