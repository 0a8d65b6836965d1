"""The launcher: ranks and devices from Accelerate, one conductor for each test, a worker on every rank.

python suite.py ...                                                      one rank
accelerate launch suite.py ...                                           one rank
accelerate launch --config_file configs/accelerate/cpu_2.yaml suite.py   two ranks on a CPU
accelerate launch --num_processes 8 suite.py ...                         eight GPUs
accelerate launch --config_file configs/accelerate/rocm_12x8.yaml --machine_rank N --main_process_ip HOST suite.py ...   on each of 12 nodes
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from configs.errors import ConfigError, GivenUpError, RunError
from configs.registry import find, make
from configs.run_config import RunConfig
from pipelines.base import Pipeline, StreamingPipeline
from pipelines.devices.environment import check_visible_devices
from pipelines.distributed.replica import check_parallelism, join_replica
from pipelines.launcher.brief_report import report_briefly
from pipelines.launcher.conductor.conductor import JobSpec, Rest
from pipelines.launcher.conductor.process import ConductorProcess
from pipelines.launcher.messages import Address
from pipelines.launcher.provenance import write_manifest, write_system
from pipelines.launcher.rate_search import search_rate
from pipelines.launcher.resume import prepare_rest
from pipelines.launcher.worker.follower import Follower, leave_where_stuck
from pipelines.launcher.worker.power_sampler import power_sampler
from pipelines.launcher.worker.worker import Worker
from workloads.base import Workload
from workloads.mlperf.run_rules import apply_mlperf_rules, check_data, check_generation
from workloads.records import Sample
from workloads.run_folder.files import create_run_folder, read_run, write_config, write_outcome, write_samples
from workloads.run_folder.record_log import fail_the_rest

if TYPE_CHECKING:
    import torch


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among the others. device: where its model goes."""

    rank: int
    world_size: int
    device: torch.device


def is_main_process() -> bool:
    """Whether this process speaks for the run; known from the environment, before Accelerate is."""
    return os.environ.get("RANK", "0") == "0"


def launch(config: RunConfig, output: str | None, find_max_rate: bool = False, resume: Path | None = None) -> Path:
    """Run every test of the config on all ranks; the run folder.

    find_max_rate: run the server scenario at several rates instead, and then in full at the highest that holds.
    resume: a run folder whose accuracy test is to be finished, instead of a new one.
    Raises ConfigError for what a user can mend before the run, RunError where a test had to be given up.
    """
    check_process_count()
    check_visible_devices(os.environ)
    config = apply_mlperf_rules(config)
    workload: Workload = make("workloads", config.workload, config.dataset)
    samples = list(workload.samples())
    check_data(config, len(samples))
    pipeline: Pipeline = make("pipelines", config.pipeline_name, config.pipeline_options)
    check_generation(config, pipeline)
    if config.workload not in pipeline.workloads:
        fitting = ", ".join(pipeline.workloads)
        raise ConfigError(f"pipeline {config.pipeline_name!r} answers {fitting}, not workload {config.workload!r}")
    pipeline.workload = config.workload
    check_parallelism(config.parallel, config.pipeline_name, pipeline.parallelism)
    if config.limits.by_token and not isinstance(pipeline, StreamingPipeline):
        fix = f"rules {config.rules!r} have token limits" if config.by_mlperf else "give load.target_latency_s instead of token limits"
        raise ConfigError(f"pipeline {config.pipeline_name!r} streams no tokens; {fix}")
    if resume and config.by_mlperf:
        raise ConfigError(
            f"rules {config.rules!r} want all answers in one log of LoadGen's: {str(resume)!r} cannot be resumed; run it anew"
        )
    if find_max_rate and not config.is_server:
        raise ConfigError(f"--find-max-rate needs a rate to change: add --scenario server or interactive, not {config.scenario!r}")
    for name in config.metrics or workload.default_metrics:
        find("metrics", name)
    rest = None
    if is_main_process():
        folder = resume or create_run_folder(output, config.workload)
        rest = prepare_rest(folder, config, samples) if resume else None
    else:
        folder = Path()
    with signals_as_interrupts():
        ranks = join_ranks(config)
        pipeline.replica = join_replica(config.parallel, ranks.rank, ranks.world_size, ranks.device)
        folder = Path(share(str(folder.resolve()), ranks))
        if workload.has_media:
            _check_all_see(folder, ranks)
        if resume:
            rest = share(rest, ranks)
            if rest is None:
                if ranks.rank == 0:
                    print(f"suite: nothing to do: all {len(samples)} samples of {resume} are answered", file=sys.stderr, flush=True)
                return folder
        elif ranks.rank == 0:
            if not find_max_rate:
                begin_run(folder, config, samples)
            write_system(folder)
            write_manifest(folder, config, samples)
        test = Test(ranks, pipeline, samples, workload.noun)
        try:
            if find_max_rate:
                search_rate(config, test, folder)
            else:
                modes = ("performance", "accuracy") if config.mode == "both" else (config.mode,)
                for mode in ("accuracy",) if resume else modes:
                    test.run(config, mode, folder, rest)
        finally:
            pipeline.close()
        leave_ranks(ranks)
    return folder


def join_ranks(config: RunConfig) -> Ranks:
    """Initialise Accelerate and choose the device. Raises RunError where ranks would not know of each other."""
    import torch
    from accelerate import PartialState

    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    on_cpu = config.device == "cpu" or not torch.accelerator.is_available()
    state = PartialState(cpu=on_cpu)
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if state.num_processes != world_size:
        raise RunError(
            f"{world_size} processes were started but Accelerate joined {state.num_processes}: every rank believes it is alone; "
            "launch with --config_file configs/accelerate/cpu_2.yaml on a CPU, with --multi_gpu on GPUs"
        )
    return Ranks(state.process_index, world_size, state.device)


def leave_ranks(ranks: Ranks) -> None:
    """Take torch's process group down when all is said.

    One that is left to the end of the process is destroyed there beside threads of its own, which now and then aborts the process, and
    with it the run: torch's launcher ends the other ranks of one that failed.
    """
    if ranks.world_size > 1:
        import torch.distributed as dist

        dist.destroy_process_group()


def spans_nodes() -> bool:
    """Whether ranks were started on several nodes; known from the environment."""
    return os.environ.get("WORLD_SIZE") != os.environ.get("LOCAL_WORLD_SIZE")


def check_process_count() -> None:
    """Refuse the launch in which Accelerate was asked for several processes and started one.

    `accelerate launch --cpu --num_processes 2` does that without a word (Accelerate 1.15).
    """
    asked = _processes_asked_for()
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if asked is not None and asked > 1 and started == 1:
        raise RunError(
            f"accelerate launch was asked for {asked} processes and started one, as it does with --cpu; "
            f"use: accelerate launch --config_file configs/accelerate/cpu_2.yaml --num_processes {asked} suite.py ..."
        )


def _processes_asked_for() -> int | None:
    """What `accelerate launch`, if it is our parent, was told about the number of processes on all machines."""
    import psutil

    try:
        words = psutil.Process().parent().cmdline()  # type: ignore[union-attr]
    except (psutil.Error, AttributeError):
        return None
    if not any(Path(w).name == "accelerate" or "accelerate.commands" in w for w in words[:4]) or "launch" not in words:
        return None
    values: dict[str, str] = {}
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, sign, value = word.lstrip("-").replace("-", "_").partition("=")
        values.setdefault(name, value if sign else following)
    if "num_processes" in values:
        return int(values["num_processes"])
    default = Path(os.environ.get("HF_HOME", Path.home() / ".cache/huggingface")) / "accelerate/default_config.yaml"
    file = Path(values.get("config_file", default))
    if not file.is_file():
        return None
    found = (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("num_processes")
    return int(found) if found else None


def begin_run(folder: Path, config: RunConfig, samples: Sequence[Sample]) -> None:
    """What a run folder holds before the first answer."""
    write_config(folder, config)
    write_samples(folder, samples)
    (folder / "records.jsonl").touch()


class Test:
    """A pipeline on its rank, and how it is put to a LoadGen test; the model is loaded for the first one only."""

    def __init__(self, ranks: Ranks, pipeline: Pipeline, samples: Sequence[Sample], noun: str) -> None:
        self.ranks, self.pipeline, self.samples, self.noun = ranks, pipeline, samples, noun
        self._loaded = False

    def run(
        self, config: RunConfig, mode: str, folder: Path, rest: Rest | None = None, audit: dict[str, int] | None = None
    ) -> dict[str, Any]:
        """One test on all ranks. Its outcome goes into outcome.json however it ends, and is returned on every rank.

        rest: what an accuracy test that is resumed has left to ask. audit: LoadGen's settings of a compliance test.
        """
        job = JobSpec(
            config.model_dump(),
            mode,
            len(self.samples),
            self.ranks.world_size // self.pipeline.replica.size,
            str(folder),
            self.noun,
            sys.stdout.isatty() and sys.stderr.isatty(),
            isinstance(self.pipeline, StreamingPipeline),
            rest=rest,
            audit=audit,
            **_listening(config),
        )
        sampler = power_sampler(config.power, self.ranks.rank, self.ranks.device)
        conductor = ConductorProcess(job) if self.ranks.rank == 0 else None  # before this rank loads anything
        left = threading.Event()  # set when the main thread is out of the pipeline's code
        try:
            address = share(conductor.address if conductor else Address(""), self.ranks)
            worker = (Worker if self.pipeline.replica.leads else Follower)(
                self.ranks.rank,
                self.pipeline,
                self.samples,
                folder,
                address,
                mode,
                config.heartbeat_timeout_s,
                sampler,
                tuple(config.require),
            )
            leave_where_stuck(lambda: _is_over(conductor, worker), left, lambda: _last_words(conductor, worker, job))
            try:
                worker.run(
                    self.ranks.device,
                    1 if self._loaded else config.warmup_batches,
                    config.seed,
                    self._loaded,
                    conductor.check if conductor else _nothing,
                )
            except KeyboardInterrupt as interrupt:
                left.set()
                worker.leave_early(str(interrupt))
                raise
            finally:
                left.set()
                worker.close()
            outcome = conductor.outcome() if conductor else {}
        except BaseException as error:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torch's launcher sends it for a rank that failed; we are ending already
            if conductor:
                outcome = _give_up(conductor, job, str(error) if isinstance(error, KeyboardInterrupt) else _as_cause(error))
                if isinstance(error, (RunError, KeyboardInterrupt)):
                    raise _given_up(outcome, folder, mode) from None
            raise
        self._loaded = True
        if conductor:
            write_outcome(folder, mode, outcome)
            if outcome.get("aborted"):
                raise _given_up(outcome, folder, mode)
        return share(outcome, self.ranks)


def _listening(config: RunConfig) -> dict[str, Any]:
    """Where the conductor is to listen: the name by which the other nodes know rank 0's, and the port; nothing on one node."""
    return {"host": os.environ["MASTER_ADDR"], "port": config.dispatch.port} if spans_nodes() else {}


def _as_cause(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"an error of its own ({lines[0] if lines else type(error).__name__})"


def _nothing() -> None:
    """Ranks other than the first are ended by their launcher where the first is gone."""


def _check_all_see(folder: Path, ranks: Ranks) -> None:
    """Raises ConfigError, on every rank, where one of them cannot see the run folder."""
    if ranks.world_size == 1:
        return
    from accelerate.utils import gather_object

    if blind := sorted({host for host in gather_object([None if folder.is_dir() else socket.gethostname()]) if host}):
        raise ConfigError(
            f"{', '.join(blind)} cannot see the run folder {folder}, into which videos go; "
            "give --output a folder on a file system that all nodes share"
        )


def share(value: T, ranks: Ranks) -> T:
    """Rank 0's value on every rank."""
    if ranks.world_size == 1:
        return value
    from accelerate.utils import broadcast_object_list

    shared: list[T] = broadcast_object_list([value])
    return shared[0]


def _is_over(conductor: ConductorProcess | None, worker: Worker) -> bool:
    return (conductor is not None and conductor.has_ended()) or worker.why_leave is not None


def _last_words(conductor: ConductorProcess | None, worker: Worker, job: JobSpec) -> None:
    """Of a rank whose main thread is not to be waited for."""
    cause = worker.why_leave or "the test has ended"
    if conductor:
        cause = str(_give_up(conductor, job, cause)["aborted"])
        report_briefly(Path(job.folder))
    here = f"rank {worker.rank} on {socket.gethostname()}"
    print(f"suite: the run was given up: {cause}; {here} was still at work and leaves it", file=sys.stderr, flush=True)


def _give_up(conductor: ConductorProcess, job: JobSpec, why: str) -> dict[str, Any]:
    """End the test; every query that was issued has a Record then, and outcome.json says why. The outcome."""
    outcome = conductor.abort(f"{why} at rank 0 on {socket.gethostname()}")
    folder = Path(job.folder)
    if "num_done" not in outcome:  # a conductor that died has left that to us
        config, _, records, _ = read_run(folder)
        num_failed = fail_the_rest(folder, job.mode, records, config.seed, str(outcome["aborted"]))
        done = [r.status == "done" for r in records if r.mode == job.mode]
        outcome |= {"num_issued": len(done) + num_failed, "num_done": sum(done), "num_failed": num_failed + len(done) - sum(done)}
        outcome |= {"ranks": [], **({"earlier": job.rest.earlier} if job.rest else {})}
    outcome["aborted"] = outcome["aborted"] or "interrupted"
    with contextlib.suppress(OSError):  # on a full disk the message has to do
        write_outcome(folder, job.mode, outcome)
    return outcome


def _given_up(outcome: Mapping[str, Any], folder: Path, mode: str) -> GivenUpError:
    shown, reason = os.path.relpath(folder), str(outcome["aborted"])
    what = reason if reason.startswith("interrupted") else f"the run was given up: {reason}"
    next_step = f"'suite.py report {shown}' reports on them in full"
    if mode == "accuracy":
        next_step += f", 'suite.py --resume {shown}' answers the rest"
    return GivenUpError(f"{what}; {outcome['num_done']} finished records are in {shown}; {next_step}", folder)


@contextlib.contextmanager
def signals_as_interrupts() -> Iterator[None]:
    """SIGTERM, from a scheduler or from torch's launcher when another rank died, ends a run as Ctrl-C does: with its records kept.

    The first of them counts; what is done about it is short, and is not interrupted by more of them.
    """

    def interrupt(number: int, _: object) -> None:
        for one in caught:
            signal.signal(one, signal.SIG_IGN)
        raise KeyboardInterrupt(signal.Signals(number).name)

    caught = [s for s in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(s) != signal.SIG_IGN]
    before = [signal.signal(s, interrupt) for s in caught]
    yield  # after an error they stay as they are: its report is still to be written
    for one, handler in zip(caught, before, strict=True):
        signal.signal(one, handler)
