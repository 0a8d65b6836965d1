"""Tests that a slow warm-up made too short are run again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from configs.load_config import parse_config
from configs.run_config import RunConfig
from pipelines.distributed.ranks import Ranks
from pipelines.launcher.session import Session
from pipelines.toy.t2v import ToyT2V
from tests.conftest import SuiteRun, read_report, record
from workloads.run_folder.attempts import read_attempts
from workloads.run_folder.manifest import changes

SLUGGISH = """
import time
from dataclasses import dataclass
from configs.registry import register
from pipelines.toy.t2v import ToyT2V

@register("sluggish")
@dataclass
class Sluggish(ToyT2V):
    calls: int = 0

    def generate(self, samples, queries):
        self.calls += 1
        time.sleep(0.3 if self.calls <= 2 else 0.03)  # two calls of 0.3 s are a whole warm-up
        return super().generate(samples, queries)
"""
OPTIONS = [
    *("--config", "t2v/toy", "--plugin", "sluggish.py", "--output", "run"),
    *(f"--set={change}" for change in ("pipeline={name: sluggish}", "metrics=[throughput]", "report_videos=0")),
    *(f"--set={change}" for change in ("load.min_duration_s=1.5", "load.min_query_count=8", "dataset.num_prompts=8", "truth.replays=0")),
]


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_test_shorter_than_its_warm_up_promised_is_run_again(suite: SuiteRun, tmp_path: Path, ranks: int) -> None:
    (tmp_path / "sluggish.py").write_text(SLUGGISH, encoding="utf-8")
    done = suite(*OPTIONS, ranks=ranks)
    assert done.returncode == 0, done.stderr
    report, run = read_report(done), tmp_path / "run"
    assert report["verdict"] == "VALID"
    first = read_attempts(run)[0]
    assert f"a performance test of {first.num_samples} samples lasted" in done.stderr
    assert first.num_samples >= 8
    assert first.duration_s < first.min_duration_s == 1.5
    assert report["attempts"][0]["num_samples"] == first.num_samples
    assert "minimum duration of 1.5 s" in (run / "report.html").read_text(encoding="utf-8")
    assert report["num_queries"]["done"] == len((run / "records.jsonl").read_bytes().splitlines()) > first.num_samples
    assert len((run / "attempts/performance-1/records.jsonl").read_bytes().splitlines()) == first.num_samples
    assert (run / "attempts/performance-1/performance/mlperf_log_summary.txt").is_file()
    assert len(list((run / "media").iterdir())) == report["num_queries"]["done"]
    assert changes(run).sentences == []


class ShortTests(Session):
    """Every test is of 4 samples, lasts a second and is too short."""

    num_failed = 0

    def _run_test(self, config: RunConfig, mode: str, folder: Path, *_: Any) -> dict[str, Any]:
        self.rates = [*getattr(self, "rates", []), config.load.target_qps]
        (folder / "media").mkdir(exist_ok=True)
        (folder / mode).mkdir()
        (folder / "records.jsonl").write_bytes(b"".join(msgspec.json.encode(record(i, completed_s=1.0)) + b"\n" for i in range(4)))
        line = {"key": "result_min_duration_met", "value": False, "metadata": {"is_error": False}}
        (folder / mode / "mlperf_log_detail.txt").write_text(f":::MLLOG {json.dumps(line)}\n", encoding="utf-8")
        return {"target_qps": 1.0, "num_failed": self.num_failed}


@pytest.mark.parametrize(
    ("scenario", "mode", "target_qps", "rates"),
    [
        ("offline", "performance", "auto", ["auto", 6.0, 12.0, 24.0, 48.0, 96.0]),  # 4 samples a second, and half as many again
        ("single_stream", "performance", "auto", ["auto", 6.0, 12.0, 24.0, 48.0, 96.0]),
        ("multi_stream", "performance", "auto", ["auto", 6.0, 12.0, 24.0, 48.0, 96.0]),
        ("offline", "performance", 5.0, [5.0]),
        ("offline", "accuracy", "auto", ["auto"]),
        ("server", "performance", "auto", ["auto"]),
    ],
)
def test_a_short_test_is_run_again_with_more_headroom_each_time_unless_the_user_chose_its_rate(
    tmp_path: Path, scenario: str, mode: str, target_qps: object, rates: list[object]
) -> None:
    import torch

    values = {"workload": "t2v", "scenario": scenario, "pipeline": {"name": "toy_t2v"}, "load": {"target_qps": target_qps}}
    session = ShortTests(Ranks(0, 1, torch.device("cpu")), ToyT2V(), [], "videos")
    session.run(parse_config(values, "test"), mode, tmp_path)
    assert session.rates == rates
    assert len(read_attempts(tmp_path)) == len(rates) - 1


def test_a_short_test_with_failed_queries_is_not_run_again(tmp_path: Path) -> None:
    import torch

    session = ShortTests(Ranks(0, 1, torch.device("cpu")), ToyT2V(), [], "videos")
    session.num_failed = 1
    session.run(parse_config({"workload": "t2v", "pipeline": {"name": "toy_t2v"}}, "test"), "performance", tmp_path)
    assert session.rates == ["auto"]
