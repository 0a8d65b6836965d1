"""Runs LoadGen tests with the settings of MLPerf's compliance tests: all in one launch, on a pipeline that is loaded once."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.errors import ConfigError
from configs.output import say
from configs.registry import make
from configs.run_config import RunConfig
from pipelines.base import Pipeline
from pipelines.distributed.ranks import Ranks, check_process_count, join_ranks, leave_ranks, share
from pipelines.distributed.replica import check_parallelism, join_replica
from pipelines.launcher.provenance import seal, write_manifest, write_system
from pipelines.launcher.session import Session
from pipelines.launcher.signals import signals_as_interrupts
from workloads.base import Workload
from workloads.records import Sample
from workloads.run_folder.claim import Claim
from workloads.run_folder.files import begin_run


@dataclass(frozen=True)
class AuditTest:
    """settings: LoadGen's, as in an audit.config. folder: the run folder to write. fresh: load a new pipeline, without cached answers."""

    name: str
    config: RunConfig
    samples: Sequence[Sample]
    settings: Mapping[str, int]
    folder: Path
    fresh: bool = False


def check_ranks(num_ranks: int, on_cpu: bool, what: str) -> None:
    """Raise ConfigError with the right command if this launch has another number of ranks than the run had.

    what: the command line after `suite.py`.
    """
    check_process_count()
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started == num_ranks:
        return
    processes = "--config_file configs/accelerate/cpu_2.yaml " if on_cpu and num_ranks > 1 else ""
    command = f"accelerate launch {processes}--num_processes {num_ranks} suite.py {what}" if num_ranks > 1 else f"python suite.py {what}"
    raise ConfigError(f"the run was made on {num_ranks} ranks and this launch has {started}; use: {command}")


def run_audits(audits: Sequence[AuditTest], more: Callable[[AuditTest], Sequence[AuditTest]], claim: Claim | None = None) -> None:
    """Run the tests one after another, on all ranks. Raises GivenUpError if one is aborted.

    more: returns the tests to add after a test, from its result; called on the first rank. claim: the first rank's, on their folder.
    """
    config = audits[0].config
    workload: Workload = make("workloads", config.workload, config.dataset)
    with signals_as_interrupts():
        ranks = join_ranks(config)
        session: Session | None = None
        try:
            for audit in audits:
                queue = [audit]
                while queue:
                    one = queue.pop(0)
                    if session is None or one.fresh:
                        if session is not None:
                            session.pipeline.close()
                        session = Session(ranks, _make_pipeline(config, ranks), one.samples, workload.noun, claim)
                    _run(one, session)
                    if one is audit:
                        queue = share(list(more(audit)) if ranks.rank == 0 else [], ranks)
        finally:
            if session is not None:
                session.pipeline.close()
        leave_ranks(ranks)


def _make_pipeline(config: RunConfig, ranks: Ranks) -> Pipeline:
    pipeline: Pipeline = make("pipelines", config.pipeline_name, config.pipeline_options)
    pipeline.workload = config.workload
    check_parallelism(config.parallel, config.pipeline_name, pipeline.parallelism)
    pipeline.replica = join_replica(config.parallel, ranks.rank, ranks.world_size, ranks.device)
    return pipeline


def _run(audit: AuditTest, session: Session) -> None:
    session.samples = audit.samples
    if session.ranks.rank == 0:
        (audit.folder / "media").mkdir(parents=True)
        begin_run(audit.folder, audit.config, audit.samples)
        write_system(audit.folder)
        write_manifest(audit.folder, audit.config, audit.samples)
        say(audit.name)
    session.run(audit.config, "performance", audit.folder, audit=dict(audit.settings))
    if session.ranks.rank == 0:
        seal(audit.folder)
