"""A session: one LoadGen test after another on a pipeline that is loaded once."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.errors import GivenUpError, RunError, describe
from configs.output import has_display, say
from configs.run_config import RunConfig
from pipelines.base import Pipeline, StreamingPipeline
from pipelines.distributed.ranks import Ranks, share, spans_nodes
from pipelines.launcher.brief_report import report_briefly
from pipelines.launcher.conductor.job import JobSpec, Rest
from pipelines.launcher.conductor.process import ConductorProcess
from pipelines.launcher.messages import Address
from pipelines.launcher.signals import where_stuck
from pipelines.launcher.worker.follower import Follower, leave_where_stuck
from pipelines.launcher.worker.power_sampler import power_sampler
from pipelines.launcher.worker.worker import Worker
from workloads.loadgen.load_test import OFFLINE_HEADROOM
from workloads.loadgen.logs import read_detail
from workloads.records import Sample
from workloads.run_folder.attempts import Attempt, measure, set_aside
from workloads.run_folder.claim import Claim
from workloads.run_folder.files import read_run, write_outcome
from workloads.run_folder.record_log import fail_the_rest

MAX_REPEATS = 5  # of a test that was too short; each has twice the headroom of the one before, 1.5 to 24 times the measured rate


class Session:
    """A pipeline on its rank, and LoadGen tests of it; the model is loaded for the first one only. claim: rank 0's, on the folder."""

    def __init__(self, ranks: Ranks, pipeline: Pipeline, samples: Sequence[Sample], noun: str, claim: Claim | None = None) -> None:
        self.ranks, self.pipeline, self.samples, self.noun = ranks, pipeline, samples, noun
        self._claim, self._loaded = claim, False

    def run(
        self, config: RunConfig, mode: str, folder: Path, rest: Rest | None = None, audit: dict[str, int] | None = None
    ) -> dict[str, Any]:
        """One test on all ranks. Its outcome goes into outcome.json however it ends, and is returned on every rank.

        A performance test that ends before the minimum duration, because the warm-up was slower than the test, is set aside
        (workloads/run_folder/attempts.py) and run again with the measured rate, with more headroom each time. A server's test lasts as
        long as its schedule of arrivals.
        rest: what a resumed accuracy test still has to answer. audit: LoadGen's settings of a compliance test.
        """
        repeats = MAX_REPEATS if mode == "performance" and config.load.target_qps == "auto" and not config.is_server else 0
        for repeat in range(repeats):
            outcome = self._run_test(config, mode, folder, rest, audit)
            attempt = share(_too_short(config, mode, folder, outcome) if self.ranks.rank == 0 else None, self.ranks)
            if attempt is None:
                return outcome
            rate = attempt.samples_per_s * OFFLINE_HEADROOM * 2**repeat
            if self.ranks.rank == 0:
                say(f"{attempt.note}; it is run again, at {rate:.3g} samples a second")
                set_aside(folder, attempt)
            config = config.model_copy(update={"load": config.load.model_copy(update={"target_qps": rate})})
        return self._run_test(config, mode, folder, rest, audit)

    def _run_test(self, config: RunConfig, mode: str, folder: Path, rest: Rest | None, audit: dict[str, int] | None) -> dict[str, Any]:
        job = self._job(config, mode, folder, rest, audit)
        sampler = power_sampler(config.power, self.ranks.rank, self.ranks.device)
        conductor = ConductorProcess(job, self._claim) if self.ranks.rank == 0 else None  # before this rank loads anything
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
                tuple(config.allow_fallback),
            )
            self._work(config, worker, conductor, job)
            outcome = conductor.outcome() if conductor else {}
        except BaseException as error:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torch's launcher sends it for a rank that failed; we are ending already
            if conductor:
                here = f"rank 0 on {socket.gethostname()}"
                interrupted = isinstance(error, KeyboardInterrupt)
                outcome = _give_up(conductor, job, f"interrupted by {error} at {here}" if interrupted else f"{here}: {describe(error)}")
                if interrupted or isinstance(error, RunError):
                    raise _given_up(outcome, folder, mode) from None
            raise
        self._loaded = True
        if conductor:
            try:
                write_outcome(folder, mode, outcome)
            except OSError as error:
                raise RunError(f"{folder / 'outcome.json'} cannot be written: {error.strerror or error}") from None
            if outcome.get("aborted"):
                raise _given_up(outcome, folder, mode)
        return share(outcome, self.ranks)

    def _work(self, config: RunConfig, worker: Worker, conductor: ConductorProcess | None, job: JobSpec) -> None:
        """This rank's part; where its main thread is stuck in it when the test ends, or at a signal, another thread ends the process."""
        left = threading.Event()  # set when the main thread has returned from the pipeline's code
        ending = threading.Lock()  # taken by the first thread that ends the process, and kept

        def end_at_a_signal(cause: str) -> None:
            ending.acquire()
            worker.leave_stuck(cause)
            if conductor:
                _give_up(conductor, job, f"interrupted by {cause} at rank 0 on {socket.gethostname()}")
                report_briefly(Path(job.folder))

        def end_after_the_test() -> None:
            ending.acquire()
            _finish_stuck_run(conductor, worker, job)

        leave_where_stuck(lambda: _is_over(conductor, worker), left, end_after_the_test)
        try:
            with where_stuck(end_at_a_signal):
                worker.run(
                    self.ranks.device,
                    1 if self._loaded else config.warmup_batches,
                    config.seed,
                    self._loaded,
                    conductor.check if conductor else lambda: None,  # other ranks are ended by their launcher where the first is gone
                )
        except KeyboardInterrupt as interrupt:
            left.set()
            worker.leave_early(str(interrupt))
            raise
        finally:
            left.set()
            worker.close()

    def _job(self, config: RunConfig, mode: str, folder: Path, rest: Rest | None, audit: dict[str, int] | None) -> JobSpec:
        # Across nodes the conductor listens under the name by which the other nodes know rank 0's.
        listening: dict[str, Any] = {"host": os.environ["MASTER_ADDR"], "port": config.dispatch.port} if spans_nodes() else {}
        return JobSpec(
            config.model_dump(),
            mode,
            len(self.samples),
            self.ranks.world_size // self.pipeline.replica.size,
            str(folder),
            self.noun,
            has_display(),
            isinstance(self.pipeline, StreamingPipeline),
            rest=rest,
            audit=audit,
            **listening,
        )


def _too_short(config: RunConfig, mode: str, folder: Path, outcome: Mapping[str, Any]) -> Attempt | None:
    """The test, if LoadGen's minimum duration was not met. Failed queries may take no time, and the run is INVALID by them anyway."""
    met = read_detail(folder / mode / "mlperf_log_detail.txt").values.get("result_min_duration_met")
    if met is not False or outcome["num_failed"]:
        return None
    return measure(folder / "records.jsonl", mode, float(outcome["target_qps"]), config.load.min_duration_s)


def _is_over(conductor: ConductorProcess | None, worker: Worker) -> bool:
    return (conductor is not None and conductor.has_ended()) or worker.why_leave is not None


def _finish_stuck_run(conductor: ConductorProcess | None, worker: Worker, job: JobSpec) -> None:
    """Called where this rank's main thread is stuck: writes the outcome and the brief report on rank 0, and says why the process ends."""
    cause = worker.why_leave or "the test has ended"
    if conductor:
        cause = str(_give_up(conductor, job, f"{cause} at rank 0 on {socket.gethostname()}")["aborted"])
        report_briefly(Path(job.folder))
    here = f"rank {worker.rank} on {socket.gethostname()}"
    say(f"the run was given up: {cause}; {here} was still busy and ends")


def _give_up(conductor: ConductorProcess, job: JobSpec, why: str) -> dict[str, Any]:
    """End the test and write its outcome: every issued query has a Record then, and outcome.json says why."""
    outcome = conductor.abort(why)
    folder = Path(job.folder)
    if "num_done" not in outcome:  # the conductor died before it wrote them
        config, _, records, _ = read_run(folder)
        num_failed = fail_the_rest(folder, job.mode, records, config.seed, str(outcome["aborted"]))
        done = [r.status == "done" for r in records if r.mode == job.mode]
        outcome |= {"num_issued": len(done) + num_failed, "num_done": sum(done), "num_failed": num_failed + len(done) - sum(done)}
        outcome |= {"ranks": [], **({"earlier": job.rest.earlier} if job.rest else {})}
    outcome["aborted"] = outcome["aborted"] or "interrupted"
    with contextlib.suppress(OSError):  # on a full disk the message alone says why
        write_outcome(folder, job.mode, outcome)
    return outcome


def _given_up(outcome: Mapping[str, Any], folder: Path, mode: str) -> GivenUpError:
    shown, reason = os.path.relpath(folder), str(outcome["aborted"])
    what = reason if reason.startswith("interrupted") else f"the run was given up: {reason}"
    next_step = f"'suite.py report {shown}' reports on them in full"
    if mode == "accuracy":
        next_step += f", 'suite.py --resume {shown}' answers the rest"
    return GivenUpError(f"{what}; {outcome['num_done']} finished records are in {shown}; {next_step}", folder)
