"""The launcher: ranks and devices from Accelerate, one conductor for each test, a worker on every rank.

python suite.py ...                                                      one rank
accelerate launch suite.py ...                                           one rank
accelerate launch --config_file configs/accelerate/cpu_2.yaml suite.py   two ranks on a CPU
accelerate launch --num_processes 8 suite.py ...                         eight GPUs
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import yaml

from configs.errors import ConfigError, RunError
from configs.registry import find, make
from configs.run_config import RunConfig
from pipelines.base import Pipeline, StreamingPipeline
from pipelines.conductor import JobSpec
from pipelines.rate_search import search_rate
from pipelines.worker import Worker
from workloads.base import Workload
from workloads.records import Sample
from workloads.run_folder import create_run_folder, write_config, write_json, write_samples

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


def launch(config: RunConfig, output: str | None, find_max_rate: bool = False) -> Path:
    """Run every test of the config on all ranks; the run folder.

    find_max_rate: run the server scenario at several rates instead, and then in full at the highest that holds.
    Raises ConfigError for what a user can mend before the run, RunError where a test had to be given up.
    """
    check_process_count()
    workload: Workload = make("workloads", config.workload, config.dataset)
    samples = list(workload.samples())
    pipeline: Pipeline = make("pipelines", config.pipeline_name, config.pipeline_options)
    if config.workload not in pipeline.workloads:
        fitting = ", ".join(pipeline.workloads)
        raise ConfigError(f"pipeline {config.pipeline_name!r} answers {fitting}, not workload {config.workload!r}")
    if config.limits.by_token and not isinstance(pipeline, StreamingPipeline):
        raise ConfigError(f"pipeline {config.pipeline_name!r} streams no tokens; give load.target_latency_s instead of token limits")
    if find_max_rate and not config.is_server:
        raise ConfigError(f"--find-max-rate needs a rate to change: add --scenario server or interactive, not {config.scenario!r}")
    for name in config.metrics or workload.default_metrics:
        find("metrics", name)
    folder = create_run_folder(output, config.workload) if is_main_process() else Path()
    with _signals_as_interrupts():
        ranks = join_ranks(config)
        folder = Path(share(str(folder.resolve()), ranks))
        if ranks.rank == 0 and not find_max_rate:
            begin_run(folder, config, samples)
        test = Test(ranks, pipeline, samples, workload.noun)
        try:
            if find_max_rate:
                search_rate(config, test, folder)
            else:
                for mode in ("performance", "accuracy") if config.mode == "both" else (config.mode,):
                    test.run(config, mode, folder)
        finally:
            pipeline.close()
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
    if world_size != int(os.environ.get("LOCAL_WORLD_SIZE", str(world_size))):
        raise RunError("this version runs on one node; launch with --num_machines 1")
    return Ranks(state.process_index, world_size, state.device)


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

    def run(self, config: RunConfig, mode: str, folder: Path) -> dict[str, Any]:
        """One test on all ranks. Its outcome goes into outcome.json however it ends, and is returned on every rank."""
        job = JobSpec(
            config.model_dump(),
            mode,
            len(self.samples),
            self.ranks.world_size,
            str(folder),
            self.noun,
            sys.stdout.isatty() and sys.stderr.isatty(),
            isinstance(self.pipeline, StreamingPipeline),
        )
        conductor = _Conductor(job) if self.ranks.rank == 0 else None  # before this rank loads anything
        try:
            address = share(conductor.address if conductor else "", self.ranks)
            worker = Worker(self.ranks.rank, self.pipeline, self.samples, folder, address, mode)
            worker.run(
                self.ranks.device,
                1 if self._loaded else config.warmup_batches,
                config.seed,
                self._loaded,
                conductor.check if conductor else _nothing,
            )
            worker.close()
            outcome = conductor.outcome() if conductor else {}
        except BaseException as error:
            outcome = conductor.abort() if conductor else {}
            if conductor:
                _write_outcome(folder, mode, outcome)
            if isinstance(error, KeyboardInterrupt):
                shown, count = os.path.relpath(folder), outcome.get("num_done", 0)
                raise RunError(f"interrupted; {count} finished records are in {shown}; 'suite.py report {shown}' reports on them") from None
            if isinstance(error, RunError):
                _raise_if_given_up(outcome, folder)
            raise
        self._loaded = True
        if conductor:
            _write_outcome(folder, mode, outcome)
            _raise_if_given_up(outcome, folder)
        return share(outcome, self.ranks)


class _Conductor:
    """The child process that holds LoadGen, as rank 0 sees it."""

    def __init__(self, job: JobSpec) -> None:
        env = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        command = [sys.executable, "-m", "pipelines.conductor"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        assert self._process.stdin
        self._process.stdin.write(msgspec.json.encode(job).decode() + "\n")
        self._process.stdin.flush()
        self._outcome: dict[str, Any] | None = None
        self.address: str = self._line()["address"]

    def check(self) -> None:
        """Raises RunError where the process is gone."""
        if (code := self._process.poll()) is not None:
            raise RunError(f"the conductor process ended early, with exit code {code}; its own message is above")

    def outcome(self) -> dict[str, Any]:
        """Wait for the test's end."""
        if self._outcome is None:
            self._outcome = self._line()
        return self._outcome

    def abort(self) -> dict[str, Any]:
        """End the test now, if it has not ended; what is known of it."""
        assert self._process.stdin
        self._process.stdin.close()
        with contextlib.suppress(RunError):
            return self.outcome()
        return {"aborted": "the conductor process ended early"}

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise RunError(f"the conductor process ended early, with exit code {code}; its own message is above")
        found: dict[str, Any] = msgspec.json.decode(line)
        return found


def _nothing() -> None:
    """Ranks other than the first are ended by their launcher where the first is gone."""


def share(value: T, ranks: Ranks) -> T:
    """Rank 0's value on every rank."""
    if ranks.world_size == 1:
        return value
    from accelerate.utils import broadcast_object_list

    shared: list[T] = broadcast_object_list([value])
    return shared[0]


def _write_outcome(folder: Path, mode: str, outcome: Mapping[str, Any]) -> None:
    """Add one test's outcome to those of the tests before it."""
    file = folder / "outcome.json"
    earlier = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    write_json(file, {**earlier, mode: outcome})


def _raise_if_given_up(outcome: Mapping[str, Any], folder: Path) -> None:
    if reason := outcome.get("aborted"):
        shown = os.path.relpath(folder)
        raise RunError(f"the run was given up: {reason}; {outcome.get('num_done', 0)} finished records are in {shown}")


@contextlib.contextmanager
def _signals_as_interrupts() -> Iterator[None]:
    """SIGTERM, which torch's launcher sends when another rank died, ends a run as Ctrl-C does: with its records kept."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
