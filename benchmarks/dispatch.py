"""Efficiency of the dispatch to uneven replicas, Offline, compared with static slices.

python benchmarks/dispatch.py [--short] [--replicas 8 96 1024] [--seconds 20]

The conductor is the real one, with LoadGen and its messages; the replicas are simulated and answer every batch after the time that their
speed requires. Speeds differ by +- 15 %, batches by +- 3 %; one replica is three times slower than it reports, and one stalls for a tenth
of the run in the middle of a batch. Efficiency is the time of a perfect schedule, which knows all speeds and ends on all replicas at once,
over the time from the first query to the last answer. Static slices are computed from the same speeds: equal ones, and ones in proportion
to the speeds that replicas report. The last line is JSON.
--short: 8 replicas for two seconds.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import resource
import selectors
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import zmq

from benchmarks.outcome import Figure, arguments, conclude
from configs.load_config import parse_config
from configs.run_config import RunConfig
from pipelines.launcher import messages
from pipelines.launcher.conductor.job import JobSpec
from pipelines.launcher.conductor.process import ConductorProcess

GOAL = 0.98
BATCH_SIZE, SAMPLE_S = 4, 0.1  # of every replica; the mean seconds a sample takes
MOST_QPS = 1000  # samples a second; with more replicas each is slower and all take longer, as one process simulates them
SPREAD, NOISE, SLOWNESS, STALL_SHARE = 0.15, 0.03, 3.0, 0.1
SLOW, STALLED = 0, 1  # these replicas


@dataclass
class Simulated:
    """A replica. sample_s: seconds of a sample; claimed_s: seconds that its warm-up measured."""

    rank: int
    socket: zmq.Socket[bytes]
    beats: zmq.Socket[bytes]
    sample_s: float
    claimed_s: float
    stall_s: float = 0.0
    stall_after: float = float("inf")  # seconds into the run


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--replicas", type=int, nargs="+", default=[8, 96, 1024])
    parser.add_argument("--seconds", type=float, default=20.0, help="of a perfect schedule, at up to 100 replicas")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(argv)
    if given.short:
        given.replicas, given.seconds = [8], 2.0
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    rows = [measure(count, given.seconds, np.random.default_rng((given.seed, count))) for count in given.replicas]
    figures = {f"{row['replicas']} replicas": Figure(row["dispatch"], "of a perfect schedule", goal=GOAL) for row in rows}
    conclude("dispatch", figures, given, rows, {"equal slices are below 0.9": all(row["equal slices"] < 0.9 for row in rows)})


def measure(count: int, seconds: float, rng: np.random.Generator) -> dict[str, Any]:
    """Return the efficiencies of the dispatch, of equal slices, and of slices by claimed speed."""
    slower = max(1.0, count / (MOST_QPS * SAMPLE_S))
    seconds *= slower
    claimed_s = slower * SAMPLE_S * rng.uniform(1 - SPREAD, 1 + SPREAD, count)
    sample_s = claimed_s.copy()
    sample_s[SLOW] *= SLOWNESS
    stall_s = STALL_SHARE * seconds
    speeds = 1 / sample_s
    num_samples = int(seconds * speeds.sum() - stall_s * speeds[STALLED])
    perfect_s = (num_samples + stall_s * speeds[STALLED]) / speeds.sum()
    with tempfile.TemporaryDirectory(prefix="triptych-dispatch-") as folder:
        taken_s = _run(Path(folder), num_samples, sample_s, claimed_s, stall_s, 0.4 * seconds, rng)
    stalls = np.where(np.arange(count) == STALLED, stall_s, 0.0)
    equal_s = (num_samples / count * sample_s + stalls).max()
    claimed_slices_s = (num_samples * (1 / claimed_s) / (1 / claimed_s).sum() * sample_s + stalls).max()
    return {
        "replicas": count,
        "samples": num_samples,
        "perfect, s": round(float(perfect_s), 2),
        "taken, s": round(taken_s, 2),
        "dispatch": float(perfect_s / taken_s),
        "equal slices": float(perfect_s / equal_s),
        "slices by claimed speed": float(perfect_s / claimed_slices_s),
    }


def _run(
    folder: Path,
    num_samples: int,
    sample_s: np.ndarray[tuple[int], np.dtype[np.float64]],
    claimed_s: np.ndarray[tuple[int], np.dtype[np.float64]],
    stall_s: float,
    stall_after: float,
    rng: np.random.Generator,
) -> float:
    """Seconds from the first query to the last answer."""
    config = _config(num_samples)
    job = JobSpec(config.model_dump(), "performance", min(num_samples, 1000), len(sample_s), str(folder), "samples", False)
    conductor = ConductorProcess(job)
    context = zmq.Context()
    context.set(zmq.MAX_SOCKETS, 2 * len(sample_s) + 8)
    replicas = []
    for rank, (real, claimed) in enumerate(zip(sample_s, claimed_s, strict=True)):
        work, beats = (_connect(context, conductor.address.url, f"{name}-{rank}") for name in ("worker", "beat"))
        replicas.append(Simulated(rank, work, beats, float(real), float(claimed)))
    replicas[STALLED].stall_s, replicas[STALLED].stall_after = stall_s, stall_after
    _answer(replicas, rng)
    outcome = conductor.outcome()
    context.destroy(linger=0)
    if outcome["aborted"] or outcome["num_done"] != num_samples:
        raise SystemExit(f"the run did not finish: {outcome}")
    with (folder / "records.jsonl").open(encoding="utf-8") as lines:
        return max(float(json.loads(line)["completed_s"]) for line in lines)


def _answer(replicas: list[Simulated], rng: np.random.Generator) -> None:
    """Act as all replicas until each receives Stop."""
    selector = selectors.DefaultSelector()  # zmq's own poller asks every socket, which takes a millisecond with a thousand of them
    for r in replicas:
        selector.register(int(r.socket.getsockopt(zmq.FD)), selectors.EVENT_READ, r)
        r.beats.send(messages.encode(messages.Hello(r.rank, "simulated")))
        r.socket.send(messages.encode(messages.Ready(r.rank, BATCH_SIZE, r.claimed_s, "none", {}, [])))
    due: list[tuple[float, int, messages.Done]] = []
    start: float | None = None
    beat_at, stopped = time.perf_counter(), 0
    awake = list(replicas)  # a socket's descriptor is silent about what came while it was sending
    while stopped < len(replicas):
        wait_s = 0.0 if awake else max(0.0, due[0][0] - time.perf_counter()) if due else 0.1
        awake += [key.data for key, _ in selector.select(wait_s)]
        for r, message in _received(awake):
            now = time.perf_counter()
            if isinstance(message, messages.Stop):
                r.socket.send(messages.encode(messages.Bye(r.rank, {})))
                stopped += 1
            elif isinstance(message, messages.Work):
                start = start or now
                service_s = len(message.queries) * r.sample_s * rng.uniform(1 - NOISE, 1 + NOISE)
                if now - start > r.stall_after:
                    service_s += r.stall_s
                    r.stall_after = float("inf")
                done = messages.Done(r.rank, [messages.Result(q.id, "done", num_units=1) for q in message.queries])
                heapq.heappush(due, (now + service_s, r.rank, done))
        awake, now = [], time.perf_counter()
        while due and due[0][0] <= now:
            _, rank, done = heapq.heappop(due)
            replicas[rank].socket.send(messages.encode(done))
            awake.append(replicas[rank])
        if now > beat_at:
            beat_at = now + 2
            for r in replicas:
                r.beats.send(messages.encode(messages.Beat(r.rank)))


def _received(replicas: Iterable[Simulated]) -> Iterator[tuple[Simulated, messages.FromConductor]]:
    """All messages that are there for these."""
    for r in replicas:
        with contextlib.suppress(zmq.Again):
            while True:
                yield r, messages.decode_from_conductor(r.socket.recv(zmq.NOBLOCK))


def _connect(context: zmq.Context[zmq.Socket[bytes]], url: str, name: str) -> zmq.Socket[bytes]:
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.IDENTITY, name.encode())
    socket.connect(url)
    return socket


def _config(num_samples: int) -> RunConfig:
    load = {"min_duration_s": 0.1, "min_query_count": num_samples, "target_qps": 1.0}
    return parse_config({"workload": "t2v", "pipeline": {"name": "toy_t2v"}, "load": load, "truth": {"replays": 0}}, "dispatch.py")


if __name__ == "__main__":
    main()
