"""The launcher: ranks and devices from Accelerate, one conductor for each test, a worker on every rank.

python suite.py ...                                                      one rank
accelerate launch suite.py ...                                           one rank
accelerate launch --config_file configs/accelerate/cpu_2.yaml suite.py   two ranks on a CPU
accelerate launch --num_processes 8 suite.py ...                         eight GPUs
accelerate launch --config_file configs/accelerate/rocm_12x8.yaml --machine_rank N --main_process_ip HOST suite.py ...   on each of 12 nodes
"""

from __future__ import annotations

import os
from pathlib import Path

from configs.errors import ConfigError
from configs.output import say
from configs.registry import make
from configs.run_config import RunConfig
from pipelines.base import Pipeline, StreamingPipeline
from pipelines.devices.environment import check_visible_devices
from pipelines.distributed.ranks import check_all_see, check_process_count, is_main_process, join_ranks, leave_ranks, share
from pipelines.distributed.replica import check_parallelism, join_replica
from pipelines.launcher.provenance import write_manifest, write_system
from pipelines.launcher.rate_search import search_rate
from pipelines.launcher.resume import prepare_rest
from pipelines.launcher.session import Session
from pipelines.launcher.signals import signals_as_interrupts
from workloads.base import Workload, read_samples
from workloads.mlperf.run_rules import apply_mlperf_rules, check_data, check_generation
from workloads.run_folder.claim import claim
from workloads.run_folder.files import begin_run, create_run_folder


def launch(config: RunConfig, output: str | None, find_max_rate: bool = False, resume: Path | None = None) -> Path:
    """Run every test of the config on all ranks; the run folder.

    find_max_rate: run the server scenario at several rates instead, and then in full at the highest VALID one.
    resume: a run folder whose accuracy test is to be finished, instead of a new one.
    Raises ConfigError for what a user can correct before the run, RunError where a test was given up.
    """
    check_process_count()
    check_visible_devices(os.environ)
    config = apply_mlperf_rules(config)
    workload: Workload = make("workloads", config.workload, config.dataset)
    samples = read_samples(workload, config.workload)
    check_data(config, len(samples))
    pipeline = _make_pipeline(config)
    if resume and config.by_mlperf:
        raise ConfigError(
            f"rules {config.rules!r} require all answers in one log of LoadGen: {str(resume)!r} cannot be resumed. Start a new run."
        )
    if find_max_rate and not config.is_server:
        raise ConfigError(f"--find-max-rate needs a scenario with a rate, not {config.scenario!r}. Add --scenario server or interactive.")
    for name in config.metrics or workload.default_metrics:
        make("metrics", name, {})
    rest = claimed = None
    folder = Path()
    if is_main_process():
        claimed = claim(resume) if resume else create_run_folder(output, config.workload)
        folder = claimed.folder
        rest = prepare_rest(folder, config, samples) if resume else None
        origin = next((f" of {config.dataset[name]}" for name in ("prompts", "path", "source") if config.dataset.get(name)), "")
        say(f"{len(samples)} prompts{origin}, the first: {samples[0].beginning!r}")
    with signals_as_interrupts():
        ranks = join_ranks(config)
        pipeline.replica = join_replica(config.parallel, ranks.rank, ranks.world_size, ranks.device)
        folder = Path(share(str(folder.resolve()), ranks))
        if workload.has_media:
            check_all_see(folder, ranks)
        if resume:
            rest = share(rest, ranks)
            if rest is None:
                if ranks.rank == 0:
                    say(f"nothing to do: all {len(samples)} samples of {resume} are answered")
                return folder
        elif ranks.rank == 0:
            if not find_max_rate:
                begin_run(folder, config, samples)
            write_system(folder)
            write_manifest(folder, config, samples)
        session = Session(ranks, pipeline, samples, workload.noun, claimed)
        try:
            if find_max_rate:
                search_rate(config, session, folder)
            else:
                modes = ("performance", "accuracy") if config.mode == "both" else (config.mode,)
                for mode in ("accuracy",) if resume else modes:
                    session.run(config, mode, folder, rest)
        finally:
            pipeline.close()
        leave_ranks(ranks)
    return folder


def _make_pipeline(config: RunConfig) -> Pipeline:
    """Raises ConfigError where it cannot answer this workload, in this parallel layout, under these limits."""
    pipeline: Pipeline = make("pipelines", config.pipeline_name, config.pipeline_options)
    check_generation(config, pipeline)
    if config.workload not in pipeline.workloads:
        fitting = ", ".join(pipeline.workloads)
        raise ConfigError(f"pipeline {config.pipeline_name!r} supports {fitting}, not workload {config.workload!r}")
    if type(pipeline.batch_size) is not int or pipeline.batch_size < 1:
        raise ConfigError(f"pipeline {config.pipeline_name!r}: batch_size must be at least 1, got {pipeline.batch_size!r}")
    pipeline.workload = config.workload
    check_parallelism(config.parallel, config.pipeline_name, pipeline.parallelism)
    if config.limits.by_token and not isinstance(pipeline, StreamingPipeline):
        fix = f"rules {config.rules!r} have token limits" if config.by_mlperf else "give load.target_latency_s instead of token limits"
        raise ConfigError(f"pipeline {config.pipeline_name!r} streams no tokens; {fix}")
    return pipeline
