"""Runs of texts made by hand, in memory and as folders."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from configs.load_config import parse_config
from metrics.base import Run
from pipelines.launcher.provenance import seal
from workloads.llm import Language
from workloads.records import Record, Sample
from workloads.run_folder.files import write_config, write_samples, write_text

TOKEN_LIMITS = {"load": {"target_ttft_s": 1.0, "target_tpot_s": 0.1}}


@pytest.fixture
def make_text_run(tmp_path: Path) -> Callable[..., Run]:
    """A Run of the llm workload from records; sample i has metas[i] and prompts[i], where given."""

    def make(records: Sequence[Record], metas: Sequence[dict[str, Any]] = (), prompts: Sequence[str] = (), **config: Any) -> Run:
        count = max(len(metas), len(prompts), 1 + max(r.sample_index for r in records))
        samples = [Sample(i, prompts[i] if prompts else f"prompt {i}", metas[i] if metas else {}) for i in range(count)]
        values = {"workload": "llm", "pipeline": {"name": "toy_llm"}, **config}
        return Run(tmp_path, parse_config(values, "test"), Language(), samples, list(records), {})

    return make


def write_run(folder: Path, samples: Sequence[Sample], records: Sequence[Record], **config: Any) -> Path:
    """A run folder as a finished performance test leaves it; LoadGen's summary has nothing but VALID."""
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder, parse_config({"workload": "llm", "pipeline": {"name": "toy_llm"}, **config}, "test"))
    write_samples(folder, samples)
    (folder / "records.jsonl").write_bytes(b"".join(msgspec.json.encode(r) + b"\n" for r in records))
    rank = {"rank": 0, "device": "cpu", "effective": {"dtype": "float32"}, "fallbacks": [], "error": None, "memory": {"host": 2**30}}
    write_text(folder / "outcome.json", json.dumps({"performance": {"aborted": None, "num_issued": len(records), "ranks": [rank]}}))
    (folder / "performance").mkdir(exist_ok=True)
    (folder / "performance/mlperf_log_summary.txt").write_text("Result is : VALID\n", encoding="utf-8")
    seal(folder)
    return folder
