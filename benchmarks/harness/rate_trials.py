"""Trials of a rate, of the suite and of the bare prototype, and the search for the highest rate that holds."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import psutil
import zmq

from benchmarks.harness import bare, cpu_use
from benchmarks.harness.suite_rank import NUM_TOKENS, Answer, Job
from tests.conftest import ROOT, suite_env
from tests.forked_ranks import start_ranks
from workloads.loadgen.load_test import read_summary

GOAL_P99_S = 0.020
STEP = 1.05  # rates that are tried are this far apart
WIDE = 6  # steps at a time, until one rate has held and another has not
START_S, END_S = 120.0, 60.0  # the longest wait for ranks to load, and for a test to end after its time
WINDOW = (0.2, 0.9)  # the part of a test whose CPU time counts


@dataclass
class Trial:
    """One LoadGen test. used: CPU microseconds a query by process and thread. shares: of the suite's functions, where profiled."""

    rate: float
    verdict: str
    completed_per_s: float
    ttft_p50_s: float
    ttft_p99_s: float
    complete: bool = True
    used: Mapping[tuple[str, str], float] = field(default_factory=dict)
    shares: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        return self.verdict == "VALID" and self.complete and self.ttft_p99_s < GOAL_P99_S


@dataclass
class Search:
    """The highest rate that holds, on a grid of STEP: in wide steps up or down from `start`, then by halves."""

    start: float
    best: int | None = None  # steps from the start; the highest that held
    worst: int | None = None  # the lowest that did not

    @property
    def rate(self) -> float:
        """The next rate to try."""
        if self.best is None or self.worst is None:
            step = (
                0 if self.best is None and self.worst is None else self.best + WIDE if self.best is not None else (self.worst or 0) - WIDE
            )
        else:
            step = (self.best + self.worst) // 2
        return self.start * STEP**step

    def note(self, rate: float, holds: bool) -> None:
        step = next(n for n in range(-400, 400) if abs(self.start * STEP**n - rate) < 1e-6 * rate)
        if holds:
            self.best = step
        else:
            self.worst = step

    @property
    def over(self) -> bool:
        return self.best is not None and self.worst is not None and self.worst - self.best <= 1

    @property
    def highest(self) -> float:
        return 0.0 if self.best is None else self.start * STEP**self.best


class SuiteRanks:
    """Ranks of the suite that stay loaded from one trial to the next."""

    def __init__(self, num_ranks: int, policy: str, folder: Path) -> None:
        self._num_ranks, self._policy, self._folder, self._number = num_ranks, policy, folder, 0

    def __enter__(self) -> SuiteRanks:
        url = f"ipc://{self._folder}/jobs"
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PAIR)
        self._socket.bind(url)
        place = self._folder / "ranks"
        place.mkdir()
        script = ROOT / "benchmarks/harness/suite_rank.py"
        self._ranks = start_ranks(place, [url, self._policy], self._num_ranks, suite_env(), script)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._socket.send(b"")
        for rank in self._ranks:
            rank.process.join(10)
            rank.process.kill()
        self._context.destroy(linger=0)

    def trial(self, rate: float, seconds: float, profiled: bool = False) -> Trial:
        self._number += 1
        folder = self._folder / f"suite-{self._number}"
        self._socket.send(msgspec.json.encode(Job(rate, seconds, str(folder))))
        issued = folder / "issued-performance.u32"
        give_up = time.monotonic() + START_S
        while not (issued.exists() and issued.stat().st_size > 4) and not self._socket.poll(20):
            self._check(time.monotonic() < give_up)
        processes = {f"rank {n}": rank.process.pid for n, rank in enumerate(self._ranks) if rank.process.pid}
        conductor = [c for c in psutil.Process(self._ranks[0].process.pid).children() if "pipelines.launcher.conductor" in c.cmdline()]
        processes |= {"conductor": conductor[0].pid} if conductor else {}
        window = (WINDOW[1] - WINDOW[0]) * seconds
        time.sleep(WINDOW[0] * seconds)
        profiles = cpu_use.Profiles(processes, window, folder) if profiled and cpu_use.py_spy() else None
        used = _used(processes, window, lambda: issued.stat().st_size / 4 if issued.exists() else 0.0)
        self._check(bool(self._socket.poll(round(1000 * END_S))))
        answer = msgspec.json.decode(self._socket.recv(), type=Answer)
        trial = read_trial(folder / "performance", rate)
        trial.complete, trial.used = answer.num_issued == answer.records, used
        trial.shares = profiles.shares() if profiles else {}
        return trial

    def _check(self, fine: bool) -> None:
        if not fine or not all(rank.process.is_alive() for rank in self._ranks):
            errors = "".join(rank.outputs[1].read_text(encoding="utf-8")[-2000:] for rank in self._ranks)
            raise SystemExit(f"a rank of the suite ended, or did not answer in time:\n{errors}")


def bare_trial(rate: float, seconds: float, folder: Path, batched: bool) -> Trial:
    """One test of the bare prototype."""
    folder.mkdir()
    words = [str(rate), str(seconds), str(NUM_TOKENS), str(folder), "batched" if batched else "one by one"]
    process = subprocess.Popen([sys.executable, str(Path(bare.__file__)), *words], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        pids: Any = msgspec.json.decode(process.stdout.readline())
        time.sleep(WINDOW[0] * seconds)
        used = _used(pids, (WINDOW[1] - WINDOW[0]) * seconds, lambda: rate * time.monotonic())  # it keeps no count
        process.wait(seconds + END_S)
    except subprocess.TimeoutExpired:  # it does not keep up, and has lost messages
        return Trial(rate, "NOT ENDED", 0.0, END_S, END_S)
    finally:
        process.kill()
        process.wait()
    trial = read_trial(folder, rate)
    trial.used = used
    return trial


def _used(processes: Mapping[str, int], seconds: float, num_queries: Callable[[], float]) -> Mapping[tuple[str, str], float]:
    """num_queries: how many have been issued so far."""
    before, began = cpu_use.thread_times(processes), num_queries()
    time.sleep(seconds)
    return cpu_use.per_query(before, cpu_use.thread_times(processes), max(1.0, num_queries() - began))


def read_trial(folder: Path, rate: float) -> Trial:
    """From LoadGen's summary, which counts both kinds in the same way."""
    summary = read_summary(folder)
    p50, p99 = (float(summary.get(f"{n}.00 percentile first token latency (ns)", "inf")) / 1e9 for n in (50, 99))
    return Trial(rate, summary.get("Result is", "INVALID"), float(summary.get("Completed samples per second", 0)), p50, p99)
