"""The speed of a run in one figure with its standard error, and ratios of two speeds.

Standard errors are of the figure's logarithm, so that a speed-up and its inverse have the same interval. The interval of one run covers
how its speed varied while it lasted. What differs from start to start (clocks, temperature, neighbours) only shows in repeated runs:
`pooled`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from metrics.base import Run
from metrics.performance.latency import query_latencies
from metrics.performance.token_latency import first_token_waits, output_token_times
from metrics.performance.token_times import token_gaps, token_times
from metrics.statistics.intervals import min_queries, percentile, student_t
from workloads.records import Record

NUM_BLOCKS, MIN_BLOCKS = 10, 5
BLOCK_WORK = 2  # the least length of a block of time, in pieces of work
UNSTEADY = 1.5  # the upper over the lower end of an interval
NUM_RESAMPLES = 1000

KINDS: dict[str, Callable[[Run], list[float]]] = {
    "latency": lambda run: query_latencies(run.timed, run.config.scenario),
    "ttft": lambda run: first_token_waits(run.timed),
    "tpot": lambda run: output_token_times(run.timed),
}


@dataclass(frozen=True, slots=True)
class Speed:
    """name: the report's figure. log_se: of log(value), on `dof` degrees of freedom; None where the run is too short for one.

    n: answers or queries; for pooled runs, the number of runs. how: where log_se comes from. unsteady: says so in a sentence where the
    ends of the interval are a factor of UNSTEADY apart or more; not of a server's run, whose speed is that of the arrivals.
    """

    name: str
    unit: str
    value: float
    higher_is_better: bool
    n: int
    log_se: float | None
    dof: float
    how: str
    unsteady: str = ""

    @property
    def ci95(self) -> tuple[float, float] | None:
        return _interval(self.value, self.log_se, self.dof)


class Ratio(NamedTuple):
    """A speed-up: above 1 is faster. log_se, dof: as in Speed."""

    value: float
    log_se: float | None
    dof: float

    @property
    def ci95(self) -> tuple[float, float] | None:
        return _interval(self.value, self.log_se, self.dof)


def throughput(run: Run) -> Speed | None:
    """Tokens per second where answers are texts, else answers per second; None where nothing was answered, or nothing was timed."""
    by_unit = run.workload.unit == "tokens"
    found = rate(run, run.workload.unit, lambda r: r.num_units) if by_unit else rate(run, run.workload.noun, lambda _: 1)
    return found if found and found.value else None


def rate(run: Run, unit: str, amount: Callable[[Record], float]) -> Speed | None:
    """What answered queries amount to per second, over all ranks; None where nothing was timed. Failed queries count in the time alone.

    Interval by batch means: the run is cut into up to NUM_BLOCKS blocks of equal time, each with the work done in it. An answer's work is
    spread evenly over its time in service, or placed at its tokens' times where they are known and `amount` is their number.
    Source: Schmeiser, Operations Research 30 (1982), 556-568: 10 to 30 batches.
    """
    records = run.timed
    done = [r for r in records if r.status == "done"]
    begin, end = min((r.issued_s for r in records), default=0.0), max((r.completed_s for r in records), default=0.0)
    if end <= begin:
        return None
    amounts = [amount(r) for r in done]
    total = sum(amounts)
    by_token = bool(done) and all(
        r.first_token_s is not None and len(r.token_gap_s) == r.num_units - 1 == a - 1 for r, a in zip(done, amounts, strict=True)
    )
    pieces = token_gaps(done) if by_token else np.array([_service_s(r) for r in done])
    piece_s = float(np.median(pieces, overwrite_input=True)) if len(pieces) else 0.0
    del pieces
    num_blocks = min(NUM_BLOCKS, int((end - begin) / (BLOCK_WORK * piece_s))) if piece_s else NUM_BLOCKS
    speed = Speed(f"{unit}_per_s", f"{unit}/s", total / (end - begin), True, len(done), None, 0.0, "the run is too short for an interval")
    if num_blocks < MIN_BLOCKS or not total:
        return speed
    edges = np.linspace(begin, end, num_blocks + 1)
    work = np.diff(_work_until(edges[1:-1], done, amounts, by_token), prepend=0.0, append=total)
    log_se = float(work.std(ddof=1) / work.mean() / math.sqrt(num_blocks))
    how = f"within the run: {num_blocks} blocks of time"
    at_once = work * num_blocks / (end - begin)
    unsteady = ""
    if not run.config.is_server and 2 * student_t(0.975, num_blocks - 1) * log_se > math.log(UNSTEADY):
        unsteady = (
            f"unsteady: {at_once.min():.3g} to {at_once.max():.3g} {unit}/s in {num_blocks} equal parts of the test's time, "
            f"{speed.value:.3g} over all of it"
        )
    return replace(speed, log_se=log_se, dof=num_blocks - 1, how=how, unsteady=unsteady)


def speed_remark(run: Run) -> str:
    """A sentence where the run has no figure of speed, or one of a speed that was unsteady."""
    if run.config.mode == "accuracy":
        return "no speed: an accuracy test is not timed"
    speed = throughput(run)
    return speed.unsteady if speed else ""


def slowness(run: Run, kind: str, share: float) -> Speed | None:
    """The percentile `share` of the queries' latency, ttft or tpot, in seconds; None where there are none.

    Interval by circular block bootstrap over queries in order of issue, because neighbours in a queue wait together.
    Source: Politis and Romano (1992), A circular block-resampling procedure for stationary data; blocks of sqrt(n) queries.
    """
    seconds = np.array(KINDS[kind](run))
    n = len(seconds)
    if not n or percentile(seconds.tolist(), share) <= 0:
        return None
    length = math.ceil(math.sqrt(n))
    num_blocks = n // length
    value = percentile(seconds.tolist(), share)
    speed = Speed(f"{kind}_p{share * 100:.0f}", "s", value, False, n, None, 0.0, "too few queries for an interval")
    if num_blocks < MIN_BLOCKS:
        return speed
    rng, at = np.random.default_rng(0), min(int(n * share), n - 1)
    drawn = np.empty(NUM_RESAMPLES)
    for i in range(NUM_RESAMPLES):
        index = (rng.integers(0, n, (-(-n // length), 1)) + np.arange(length)).ravel()[:n] % n
        drawn[i] = np.partition(seconds[index], at)[at]
    log_se = float(np.log(drawn).std(ddof=1))
    return replace(speed, log_se=log_se, dof=num_blocks - 1, how=f"within the run: blocks of {length} queries, resampled")


def best_share(runs: Sequence[Run], kind: str) -> float:
    """0.9 where every run has enough queries for that percentile, else 0.5."""
    return 0.9 if all(len(KINDS[kind](run)) >= min_queries(0.9, 1) for run in runs) else 0.5


def pooled(speeds: Sequence[Speed]) -> Speed:
    """The geometric mean of repeated runs, with an interval from how much they differ (Student's t)."""
    if len(speeds) == 1:
        return speeds[0]
    logs = np.log([s.value for s in speeds])
    k = len(speeds)
    log_se = float(logs.std(ddof=1) / math.sqrt(k))
    value, how = float(np.exp(logs.mean())), f"between {k} runs"
    return replace(speeds[0], value=value, n=k, log_se=log_se, dof=k - 1, how=how, unsteady="")


def speed_up(baseline: Speed, candidate: Speed) -> Ratio:
    """How many times as fast the candidate is; the interval is Welch's approximation."""
    value = candidate.value / baseline.value if candidate.higher_is_better else baseline.value / candidate.value
    return Ratio(value, *_welch([(baseline.log_se, baseline.dof), (candidate.log_se, candidate.dof)]))


def geometric_mean(ratios: Sequence[Ratio]) -> Ratio:
    """The geometric mean of speed-ups that share no run."""
    m = len(ratios)
    value = math.exp(math.fsum(math.log(r.value) for r in ratios) / m)
    return Ratio(value, *_welch([(None if r.log_se is None else r.log_se / m, r.dof) for r in ratios]))


def _welch(parts: Sequence[tuple[float | None, float]]) -> tuple[float | None, float]:
    """Standard error of a sum of independent parts, and its degrees of freedom (Welch-Satterthwaite)."""
    known = [(se, dof) for se, dof in parts if se is not None]
    if len(known) < len(parts):
        return None, 0.0
    variance = math.fsum(se**2 for se, _ in known)
    spread = math.fsum(se**4 / dof for se, dof in known)
    return math.sqrt(variance), variance**2 / spread if spread else math.inf


def _interval(value: float, log_se: float | None, dof: float) -> tuple[float, float] | None:
    if log_se is None:
        return None
    half = student_t(0.975, dof) * log_se
    return value * math.exp(-half), value * math.exp(half)


def _service_s(record: Record) -> float:
    return record.completed_s - (record.issued_s if record.started_s is None else record.started_s)


def _work_until(edges: NDArray[np.float64], done: Sequence[Record], amounts: Sequence[float], by_token: bool) -> NDArray[np.float64]:
    """Work done before each edge."""
    if by_token:
        times = token_times(done)
        times.sort()  # in place: of a million answers they are 200 MB
        return np.searchsorted(times, edges).astype(float)
    took_N, end_N, amount_N = np.array([(_service_s(r), r.completed_s, a) for r, a in zip(done, amounts, strict=True)]).reshape(-1, 3).T
    at_once_N = took_N <= 0
    safe_N = np.where(at_once_N, 1.0, took_N)
    shares = [np.where(at_once_N, edge >= end_N, np.clip((edge - (end_N - took_N)) / safe_N, 0, 1)) for edge in edges]
    return np.array([float((amount_N * share_N).sum()) for share_N in shares])
