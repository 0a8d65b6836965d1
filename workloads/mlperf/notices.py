"""What has to stand beside the figures of a run: MLCommons' notices, and how its answers differ from the reference's."""

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
UNVERIFIED = "Result not verified by MLCommons Association."  # what the messaging guidelines of mlcommons/policies ask for, word by word


def notice(config: RunConfig) -> str:
    """What has to stand beside every figure of the run."""
    if not config.by_mlperf:
        return f"Not an MLPerf\u2122 result: judged by the suite's own quick rules, short runs. {UNVERIFIED}"
    found = benchmark_of(config)
    scenario = config.scenario.replace("_", " ").title().replace(" ", "")
    return f"Unverified MLPerf\u2122 {found.round} Inference {found.name} {scenario}. {UNVERIFIED} {TRADEMARK}"


def notices(configs: Iterable[RunConfig]) -> str:
    """What has to stand beside figures of several runs: each notice once, and what parts those that must not be compared."""
    listed = list(configs)
    told = list(dict.fromkeys(map(notice, listed)))
    alike = {(c.rules, c.benchmark, c.scenario) for c in listed if c.by_mlperf} | {("quick",) for c in listed if not c.by_mlperf}
    if len(alike) > 1 and any(c.by_mlperf for c in listed):
        told.append("MLPerf\u2122 results may only be compared with such results of the same benchmark and scenario; not all here are.")
    return " ".join(told)


def differences_from_reference(found: Benchmark, pipeline_options: Mapping[str, Any]) -> list[str]:
    """How answers were made otherwise than the benchmark's reference makes them, where the rules let a run go on."""
    told = [NOT_AS_REFERENCE[found.name]] if found.name in NOT_AS_REFERENCE else []
    cache = pipeline_options.get("cache")
    name = cache.get("name") if isinstance(cache, Mapping) else cache
    if name not in (None, "none"):
        told.append(f"pipeline.cache is {name}: parts of the denoiser's work are left out, where the reference does all of it")
    return told
