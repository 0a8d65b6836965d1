"""One rank of the suite with an engine that answers at once: runs LoadGen's server scenario at each rate that benchmarks/rate.py sends.

Everything is on: first tokens and completions as separate events, the dispatch policy, a Record of every query on disk, heartbeats. The
limits are those of MLPerf's Llama 2 70B server (TTFT 2 s, TPOT 200 ms at p99), and answers have 294 tokens, its mean.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import msgspec
import zmq

NUM_TOKENS = 294  # MLPerf's mean for Llama 2 70B


class Job(msgspec.Struct):
    """One test."""

    rate: float
    seconds: float
    folder: str


class Answer(msgspec.Struct):
    """What came of it. records: lines in records.jsonl."""

    num_issued: int
    records: int


def main() -> None:
    """Arguments: the address to take jobs from, the dispatch policy. An empty message is the end."""
    import benchmarks.harness.null_engine  # noqa: F401  (registers the pipeline)
    from configs.load_config import parse_config
    from configs.registry import make
    from pipelines.distributed.ranks import join_ranks, share
    from pipelines.launcher.session import Session
    from workloads.run_folder.files import begin_run

    url, policy = sys.argv[1:]
    values: dict[str, Any] = {
        "workload": "llm",
        "scenario": "server",
        "pipeline": {"name": "null_llm", "num_tokens": NUM_TOKENS},
        "load": {"target_ttft_s": 2.0, "target_tpot_s": 0.2, "target_percentile": 0.99},
        "dispatch": {"policy": policy, "max_in_flight": 100_000},
        "num_threads": 1,
        "truth": {"replays": 0},
    }
    config = parse_config(values, "rate.py")
    ranks = join_ranks(config)
    first = ranks.rank == 0
    samples = list(make("workloads", "llm", {}).samples())
    session = Session(ranks, make("pipelines", "null_llm", config.pipeline_options), samples, "answers")
    socket = zmq.Context().socket(zmq.PAIR)
    if first:
        socket.connect(url)
    while content := share(socket.recv() if first else b"", ranks):
        job = msgspec.json.decode(content, type=Job)
        folder = Path(job.folder)
        load = config.load.model_copy(update={"target_qps": job.rate, "min_duration_s": job.seconds})
        one = config.model_copy(update={"load": load})
        if first:
            (folder / "media").mkdir(parents=True)
            begin_run(folder, one, samples)
        outcome = session.run(one, "performance", folder)
        if first:
            with (folder / "records.jsonl").open("rb") as lines:
                answer = Answer(outcome["num_issued"], sum(1 for _ in lines))
            socket.send(msgspec.json.encode(answer))
    socket.close(linger=0)


if __name__ == "__main__":
    main()
