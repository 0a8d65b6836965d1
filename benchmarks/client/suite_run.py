"""A LoadGen test of the suite with the pipeline `endpoint`: conductor, rank and client as in any run."""

from __future__ import annotations

import resource
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import psutil

from configs.load_config import parse_config
from configs.registry import make
from pipelines.distributed.ranks import Ranks, join_ranks
from pipelines.launcher.session import Session
from workloads.records import Record, Sample
from workloads.run_folder.files import begin_run

PROMPT = "count from 1 to 9."


@dataclass(frozen=True)
class Tested:
    """cpu_s: of the rank with the client, and of conductor and LoadGen."""

    records: Sequence[Record]
    cpu_s: float
    conductor_cpu_s: float

    @property
    def requests_per_s(self) -> float:
        span_s = max(r.completed_s for r in self.records) - min(r.issued_s for r in self.records)
        return len(self.records) / span_s

    @property
    def requests_per_cpu_s(self) -> float:
        """Of the client: the rank's process and the conductor's."""
        return len(self.records) / (self.cpu_s + self.conductor_cpu_s)


class SuiteRuns:
    """Tests in this process, as its only rank."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ranks: Ranks | None = None

    def run(self, url: str, scenario: str, concurrency: int, seconds: float, qps: float | None = None) -> Tested:
        """qps: None where LoadGen is to find it from the warm-up."""
        load: dict[str, Any] = {"min_duration_s": seconds, "min_query_count": 1}
        load |= {} if qps is None else {"target_qps": qps}
        values: dict[str, Any] = {
            "workload": "llm",
            "scenario": scenario,
            "pipeline": {"name": "endpoint", "url": url, "concurrency": concurrency},
            "load": load,
            "truth": {"replays": 0},
            "warmup_batches": 1,
            "num_threads": 1,
        }
        config = parse_config(values, "endpoint_client.py")
        self._ranks = self._ranks or join_ranks(config)
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        (folder / "media").mkdir()
        samples = [Sample(index, PROMPT) for index in range(64)]
        begin_run(folder, config, samples)
        pipeline = make("pipelines", "endpoint", config.pipeline_options)
        pipeline.workload = "llm"
        began, conductor = _cpu_s(resource.RUSAGE_SELF), _cpu_s(resource.RUSAGE_CHILDREN)
        try:
            Session(self._ranks, pipeline, samples, "answers").run(config, "performance", folder)
        finally:
            pipeline.close()
        psutil.wait_procs([p for p in psutil.Process().children() if "mock" not in p.name()], timeout=10)  # only then its time is known
        cpu_s = _cpu_s(resource.RUSAGE_SELF) - began
        decode = msgspec.json.Decoder(Record).decode
        records = [decode(line) for line in (folder / "records.jsonl").read_bytes().splitlines()]
        return Tested(records, cpu_s, _cpu_s(resource.RUSAGE_CHILDREN) - conductor)


def _cpu_s(whose: int) -> float:
    return sum(resource.getrusage(whose)[:2])
