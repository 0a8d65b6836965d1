"""The pipeline `endpoint` against a mock server in C: requests a second, and how far its times are from the server's own.

python -m benchmarks.endpoint_client [--short] [--seconds 8] [--repeats 3]

Speed: Offline tests of the suite, with conductor, LoadGen and a Record of every query, against a server that streams 64 tokens at once, at
32 and 256 requests in flight; wrk beside it in every round, where it is installed. A client CPU second is one of rank and conductor.
Truth: server tests at 1, 32 and 128 streams (Poisson arrivals; single_stream for 1), 50 ms to the first token and 10 ms from token to
token. The tokens' texts are the times at which the server sent them, so that the errors are the client's alone. The round with the
smaller p99 error counts, because other work on the machine only makes the client later; all rounds are stored. Needs cc and Linux.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.client.mock import compile_mock, serving
from benchmarks.client.suite_run import SuiteRuns, Tested
from benchmarks.client.wrk import Rate, wrk
from benchmarks.outcome import Figure, arguments, conclude

IN_FLIGHT, NUM_TOKENS = (32, 256), 64
STREAMS, NUM_PACED, FIRST_S, GAP_S = (1, 32, 128), 32, 0.05, 0.01
TTFT_GOALS, TPOT_GOAL, WRK_GOAL = {1: 0.02, 32: 0.05, 128: 0.10}, 0.01, 0.5


class Errors(NamedTuple):
    """Relative errors of the report's times: mean and p99 of TTFT, mean of TPOT. Of what the server says itself."""

    ttft: float
    ttft_p99: float
    tpot: float
    lag_p99_ms: float
    answers: int


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each test")
    parser.add_argument("--repeats", type=int, default=3, help="rounds")
    given = parser.parse_args(argv)
    if given.short:
        given.seconds, given.repeats = 0.5, 1
    in_flight, streams = (IN_FLIGHT[:1], STREAMS[1:2]) if given.short else (IN_FLIGHT, STREAMS)
    speeds: dict[int, list[Tested]] = {n: [] for n in in_flight}
    yardstick: dict[int, list[Rate]] = {n: [] for n in in_flight}
    errors: dict[int, list[Errors]] = {n: [] for n in streams}
    with tempfile.TemporaryDirectory(prefix="triptych-client-") as name:
        folder = Path(name)
        program, runs = compile_mock(folder), SuiteRuns(folder)
        for _ in range(given.repeats):
            with serving(program, NUM_TOKENS) as url:
                for n in in_flight:
                    speeds[n].append(runs.run(url, "offline", n, given.seconds))
                    if (rate := wrk(url, n, 1 if given.short else 3, folder)) is not None:
                        yardstick[n].append(rate)
            for n in streams:
                with serving(program, NUM_PACED, FIRST_S, GAP_S) as url:
                    errors[n].append(errors_of(paced(runs, url, n, given.seconds)))
    conclude("endpoint_client", {**speed_figures(speeds, yardstick), **truth_figures(errors)}, given, rows(errors))


def paced(runs: SuiteRuns, url: str, streams: int, seconds: float) -> Tested:
    """At random arrivals `streams` are the mean number of answers under way."""
    if streams == 1:
        return runs.run(url, "single_stream", 1, seconds)
    return runs.run(url, "server", 4 * streams, seconds, streams / (FIRST_S + GAP_S * (NUM_PACED - 1)))


def errors_of(tested: Tested) -> Errors:
    """The records' times against the ones in their texts: when the request was read, and when each token was sent."""
    failed = [r.error for r in tested.records if r.error]
    assert not failed, failed[0]
    sent = np.array([[float(word) for word in (r.text or "").split()] for r in tested.records])
    ttft_s, true_ttft_s = np.array([r.ttft_s for r in tested.records]), sent[:, 1] - sent[:, 0]
    tpot_s, true_tpot_s = np.array([r.tpot_s for r in tested.records]), (sent[:, -1] - sent[:, 1]) / (NUM_PACED - 1)
    lag_s = np.array([r.client_lag_s for r in tested.records])
    return Errors(
        abs(ttft_s.mean() / true_ttft_s.mean() - 1),
        abs(np.percentile(ttft_s, 99) / np.percentile(true_ttft_s, 99) - 1),
        abs(tpot_s.mean() / true_tpot_s.mean() - 1),
        float(np.percentile(lag_s, 99)) * 1e3,
        len(tested.records),
    )


def speed_figures(speeds: dict[int, list[Tested]], yardstick: dict[int, list[Rate]]) -> dict[str, Figure]:
    figures: dict[str, Figure] = {}
    for n, tests in speeds.items():
        per_s, per_cpu_s = [t.requests_per_s for t in tests], [t.requests_per_cpu_s for t in tests]
        figures[f"requests/s, {n} in flight"] = Figure(median(per_s), "1/s", repeats=per_s)
        figures[f"requests a client CPU second, {n} in flight"] = Figure(median(per_cpu_s), "1/s", repeats=per_cpu_s)
        if yardstick[n]:
            shares = [own / rate.per_s for own, rate in zip(per_s, yardstick[n], strict=True)]
            figures[f"share of wrk, {n} in flight"] = Figure(median(shares), "1", goal=WRK_GOAL, repeats=shares)
            figures[f"wrk, {n} in flight"] = Figure(median(r.per_s for r in yardstick[n]), "1/s", repeats=[r.per_s for r in yardstick[n]])
    return figures


def truth_figures(errors: dict[int, list[Errors]]) -> dict[str, Figure]:
    figures: dict[str, Figure] = {}
    for n, rounds in errors.items():
        best = min(rounds, key=lambda e: e.ttft_p99)
        figures[f"TTFT error, mean, {n} streams"] = Figure(best.ttft, "1", "lower", TTFT_GOALS[n], [e.ttft for e in rounds])
        figures[f"TTFT error, p99, {n} streams"] = Figure(best.ttft_p99, "1", "lower", TTFT_GOALS[n], [e.ttft_p99 for e in rounds])
        figures[f"TPOT error, {n} streams"] = Figure(best.tpot, "1", "lower", TPOT_GOAL, [e.tpot for e in rounds])
    return figures


def rows(errors: dict[int, list[Errors]]) -> list[dict[str, Any]]:
    return [
        {
            "streams": n,
            "round": number,
            "answers": e.answers,
            "TTFT error": f"{e.ttft:.1%}",
            "p99": f"{e.ttft_p99:.1%}",
            "TPOT error": f"{e.tpot:.2%}",
            "client_lag p99, ms": e.lag_p99_ms,
        }
        for n, rounds in errors.items()
        for number, e in enumerate(rounds, 1)
    ]


if __name__ == "__main__":
    main()
