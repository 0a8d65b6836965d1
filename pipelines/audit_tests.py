"""LoadGen tests with other settings than the run's: MLPerf's compliance tests, all of one launch, on a pipeline that is loaded once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.errors import ConfigError
from configs.registry import make
from configs.run_config import RunConfig
from pipelines.base import Pipeline
from pipelines.launcher import Test, begin_run, check_process_count, join_ranks, signals_as_interrupts
from pipelines.provenance import seal, write_manifest, write_system
from pipelines.replica import check_parallelism, join_replica
from workloads.base import Workload
from workloads.records import Sample


@dataclass(frozen=True)
class AuditTest:
    """settings: LoadGen's, as in an audit.config. folder: the run folder to make of it."""

    name: str
    config: RunConfig
    samples: Sequence[Sample]
    settings: Mapping[str, int]
    folder: Path


def check_ranks(num_ranks: int, on_cpu: bool, what: str) -> None:
    """Raises ConfigError, with the command that does better, where this launch has another number of ranks than the run had.

    what: the command line after `suite.py`.
    """
    check_process_count()
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started == num_ranks:
        return
    processes = "--config_file configs/accelerate/cpu_2.yaml " if on_cpu and num_ranks > 1 else ""
    better = f"accelerate launch {processes}--num_processes {num_ranks} suite.py {what}" if num_ranks > 1 else f"python suite.py {what}"
    raise ConfigError(f"the run was made on {num_ranks} ranks and this launch has {started}; use: {better}")


def run_audits(audits: Sequence[AuditTest]) -> None:
    """Run them one after the other, on all ranks. Raises GivenUpError where one had to be given up."""
    config = audits[0].config
    workload: Workload = make("workloads", config.workload, config.dataset)
    pipeline: Pipeline = make("pipelines", config.pipeline_name, config.pipeline_options)
    check_parallelism(config.parallel, config.pipeline_name, pipeline.parallelism)
    with signals_as_interrupts():
        ranks = join_ranks(config)
        pipeline.replica = join_replica(config.parallel, ranks.rank, ranks.world_size, ranks.device)
        test = Test(ranks, pipeline, audits[0].samples, workload.noun)
        try:
            for audit in audits:
                test.samples = audit.samples
                if ranks.rank == 0:
                    (audit.folder / "media").mkdir(parents=True)
                    begin_run(audit.folder, audit.config, audit.samples)
                    write_system(audit.folder)
                    write_manifest(audit.folder, audit.config, audit.samples)
                test.run(audit.config, "performance", audit.folder, audit=dict(audit.settings))
                if ranks.rank == 0:
                    seal(audit.folder)
        finally:
            pipeline.close()
