"""The highest server rate of the suite with everything on, as a share of that of a bare prototype of the same parts, measured in turn.

python benchmarks/rate.py [--short] [--seconds 4] [--rounds 3] [--rate 20000] [--ranks 2] [--policy least_tokens]

A rate holds where LoadGen calls it VALID (TTFT 2 s, TPOT 200 ms at p99) and its p99 TTFT is under 20 ms, in one of two trials: other work
on a machine only makes a rate fail. An absolute rate says little about another machine, or about this one at another time; the prototype
(benchmarks/harness/bare.py: LoadGen with token events, a ZeroMQ ROUTER, two DEALERs that echo, nothing kept) is the yardstick. It is there
twice: with all queries that are there in one message, as in the suite, and, as a program of a few lines would, with a message for each.
The suite (benchmarks/harness/suite_rank.py) has first tokens and completions as events, the dispatch policy and a Record of every query.
CPU time a query at one rate depends less on other work: bare to suite is what the suite's rate would be, were CPU time its only limit. The
table has it by process, thread and, where py-spy is installed, function of the main thread. The last line is JSON.
--short: one rate, one rank, half a second.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.harness import cpu_use
from benchmarks.harness.rate_trials import Search, SuiteRanks, Trial, bare_trial
from benchmarks.outcome import Figure, arguments, conclude, print_table

GOAL = 0.8  # of the bare prototype, both with all queries in one message
SUITE, BATCHED, ONE_BY_ONE = "suite", "bare", "bare, a message for each query"
STARTS = {SUITE: 30_000.0, BATCHED: 100_000.0, ONE_BY_ONE: 15_000.0}  # rates to begin with; searches go on from the last round's
SHORT_QPS, SHORT_S = 2000.0, 0.5


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each trial")
    parser.add_argument("--rounds", type=int, default=3, help="searches of each; the median counts")
    parser.add_argument("--rate", type=float, default=20_000.0, help="queries a second at which CPU time is measured")
    parser.add_argument("--policy", default="least_tokens", help="least_tokens, shortest_queue or round_robin")
    parser.add_argument("--ranks", type=int, default=2)
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="triptych-rate-") as place:
        folder = Path(place)
        with SuiteRanks(1 if given.short else given.ranks, given.policy, folder) as suite:
            trials: dict[str, Callable[[float], Trial]] = {
                SUITE: lambda rate: suite.trial(rate, given.seconds),
                BATCHED: lambda rate: bare_trial(rate, given.seconds, Path(tempfile.mkdtemp(dir=folder)) / "bare", True),
                ONE_BY_ONE: lambda rate: bare_trial(rate, given.seconds, Path(tempfile.mkdtemp(dir=folder)) / "bare", False),
            }
            if given.short:
                given.seconds = SHORT_S
                at_once = {name: trials[name](SHORT_QPS) for name in (SUITE, BATCHED)}
                highest = {name: [trial.completed_per_s] for name, trial in at_once.items()}
                costs = [(at_once[SUITE], at_once[BATCHED])]
                profiled = at_once[SUITE]
            else:
                highest = search(trials, given.rounds)
                costs = [(trials[SUITE](given.rate), trials[BATCHED](given.rate)) for _ in range(given.rounds)]
                profiled = suite.trial(given.rate, 2 * given.seconds, profiled=True)
    conclude("rate", figures(highest, costs), given, cost(profiled, costs[-1][1]))


def search(trials: Mapping[str, Callable[[float], Trial]], rounds: int) -> dict[str, list[float]]:
    """The highest rate of each that holds, once a round; trials of all alternate, so that they meet the same other work."""
    highest: dict[str, list[float]] = {name: [] for name in trials}
    for number in range(rounds):
        searches = {name: Search(highest[name][-1] if number and highest[name][-1] else STARTS[name]) for name in trials}
        while any(not one.over for one in searches.values()):
            for name, one in searches.items():
                if not one.over:
                    rate = one.rate
                    done = [trials[name](rate)]
                    if not done[0].holds:
                        done.append(trials[name](rate))
                    one.note(rate, any(trial.holds for trial in done))
                    print_table([{"round": number + 1, "what": name, "queries/s": round(t.rate), **_row(t)} for t in done])
        for name, one in searches.items():
            highest[name].append(one.highest)
    return highest


def _row(trial: Trial) -> dict[str, Any]:
    times = {"TTFT p50, ms": round(1e3 * trial.ttft_p50_s, 2), "p99, ms": round(1e3 * trial.ttft_p99_s, 2)}
    return {"LoadGen": trial.verdict, **times, "CPU us a query": round(sum(trial.used.values()), 1), "holds": trial.holds}


def cost(suite: Trial, bare: Trial) -> list[dict[str, Any]]:
    """CPU microseconds a query at one rate."""
    return [{"what": SUITE, **row} for row in cpu_use.table(suite.used, suite.shares)] + [
        {"what": BATCHED, **row} for row in cpu_use.table(bare.used, {})
    ]


def figures(highest: Mapping[str, Sequence[float]], costs: Sequence[tuple[Trial, Trial]]) -> dict[str, Figure]:
    """costs: trials of the suite and the bare prototype at one rate."""
    found = {}
    for name, goal in ((BATCHED, GOAL), (ONE_BY_ONE, None)):
        if name in highest:
            ratios = [suite / max(bare, 1.0) for suite, bare in zip(highest[SUITE], highest[name], strict=True)]
            found[f"suite to {name}"] = Figure(statistics.median(ratios), "of its highest rate", goal=goal, repeats=ratios)
    shares = [sum(bare.used.values()) / max(sum(suite.used.values()), 1e-9) for suite, bare in costs]
    found["CPU time a query, bare to suite"] = Figure(statistics.median(shares), "of the suite's", repeats=shares)
    for name, trials in zip((SUITE, BATCHED), zip(*costs, strict=True), strict=True):
        used = [sum(trial.used.values()) for trial in trials]
        found[f"CPU time a query, {name}"] = Figure(statistics.median(used), "us", better="lower", repeats=used)
    rates = {name: Figure(statistics.median(values), "queries/s", repeats=values) for name, values in highest.items()}
    return found | {f"highest rate of {name}": figure for name, figure in rates.items()}


if __name__ == "__main__":
    main()
