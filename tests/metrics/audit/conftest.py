"""Runs of right and wrong answers, made by hand."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from configs.registry import register
from metrics.base import Run, SampleMetric
from metrics.report.report import build_report
from pipelines.launcher.provenance import seal
from tests.conftest import record
from tests.metrics.conftest import write_run
from workloads.records import Record, Sample
from workloads.run_folder.files import write_json

Make = Callable[..., Path]
NUM = 80


def answers(seconds: float, wrong: Sequence[int] = ()) -> list[Record]:
    """NUM answers one after another, `seconds` each; those in `wrong` are wrong."""
    texts = [f"wrong {i}" if i in wrong else f"answer {i}" for i in range(NUM)]
    digests = [hashlib.sha256(text.encode()).hexdigest()[:16] for text in texts]
    times = [{"started_s": seconds * i, "completed_s": seconds * (i + 1)} for i in range(NUM)]
    return [record(i, num_units=4, text=texts[i], digest=digests[i], **times[i]) for i in range(NUM)]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def made(name: str, records: Sequence[Record], prompt: str = "question", **config: Any) -> Path:
        return write_answers(tmp_path / name, records, prompt, **config)

    return made


def write_answers(folder: Path, records: Sequence[Record], prompt: str = "question", prompts: Sequence[str] = (), **config: Any) -> Path:
    write_run(
        folder, [Sample(i, prompts[i] if prompts else f"{prompt} {i}", {"answer": f"answer {i}"}) for i in range(NUM)], records, **config
    )
    write_json(folder / "system.json", {"processor": "chip", "accelerators": [], "packages": {}})
    seal(folder)
    build_report(folder)
    return folder


@register("scores_length")
@dataclass(frozen=True)
class ScoresLength(SampleMetric):
    name: ClassVar[str] = "length"

    def score(self, run: Run, sample: Sample, record: Record) -> Mapping[str, float]:
        return {"length": float(len(str(record.text)))}
