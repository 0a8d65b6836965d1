from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from configs.errors import RunError
from configs.load_config import parse_config
from configs.run_config import RunConfig
from pipelines.distributed.ranks import Ranks
from pipelines.launcher import provenance
from pipelines.launcher.rate_search import CLOSE_ENOUGH, search_rate
from workloads.records import Sample


class MachineOfKnownSpeed:
    """Stands in for a Session: a run is VALID at rates up to its capacity, which full runs find `full_share` of."""

    def __init__(self, capacity: float, full_share: float = 1.0) -> None:
        self.capacity, self.full_share = capacity, full_share
        self.ranks = Ranks(0, 1, torch.device("cpu"))
        self.samples = [Sample(0, "hi")]
        self.durations: list[float] = []

    def run(self, config: RunConfig, mode: str, folder: Path) -> dict[str, Any]:
        rate = 10.0 if config.load.target_qps == "auto" else float(config.load.target_qps)
        self.durations.append(config.load.min_duration_s)
        full = config.load.min_duration_s == 10
        verdict = "VALID" if rate <= self.capacity * (self.full_share if full else 1.0) else "INVALID"
        (folder / mode).mkdir()
        text = f"Result is : {verdict}\nCompleted samples per second : {rate}\n90.00 percentile first token latency (ns) : {rate * 1e7}\n"
        (folder / mode / "mlperf_log_summary.txt").write_text(text)
        return {"target_qps": rate}


@pytest.fixture(autouse=True)
def _known_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every probe is sealed, with the suite's commit in its manifest; here without asking git each time."""
    monkeypatch.setattr(provenance, "suite_commit", lambda: "0" * 40)


def config(**load: Any) -> RunConfig:
    settings = {"min_duration_s": 10, "target_ttft_s": 1.0, **load}
    return parse_config({"workload": "llm", "scenario": "server", "pipeline": {"name": "toy_llm"}, "load": settings}, "test")


@pytest.mark.parametrize("capacity", [1.3, 10.0, 87.0])
def test_it_ends_with_a_valid_full_run_and_an_invalid_rate_just_above(tmp_path: Path, capacity: float) -> None:
    probes = search_rate(config(), MachineOfKnownSpeed(capacity), tmp_path)  # type: ignore[arg-type]
    best = probes[-1]
    assert (best.verdict, best.full) == ("VALID", True)
    above = min(p.target_qps for p in probes if p.verdict == "INVALID")
    assert best.target_qps <= capacity < above <= best.target_qps * CLOSE_ENOUGH * 1.001


def test_every_probe_is_kept_and_the_full_run_becomes_the_run(tmp_path: Path) -> None:
    machine = MachineOfKnownSpeed(20.0)
    probes = search_rate(config(), machine, tmp_path)  # type: ignore[arg-type]
    content = json.loads((tmp_path / "search.json").read_text())
    assert len(content["probes"]) == len(probes) == len(machine.durations)
    assert content["confirmed"] is True
    assert content["max_valid_qps"] == pytest.approx(probes[-1].target_qps)
    assert content["probes"][0]["ttft_s"] == pytest.approx(0.1)
    assert set(machine.durations[:-1]) == {4.0}
    assert (tmp_path / "performance" / "mlperf_log_summary.txt").exists()
    assert (tmp_path / "config.yaml").exists()
    kept = sorted(p.name for p in (tmp_path / "probes").iterdir())
    assert kept == [f"{i + 1:02d}" for i in range(len(probes) - 1)]


def test_a_full_run_that_fails_is_tried_again_lower(tmp_path: Path) -> None:
    probes = search_rate(config(), MachineOfKnownSpeed(20.0, full_share=0.9), tmp_path)  # type: ignore[arg-type]
    full = [p for p in probes if p.full]
    assert [p.verdict for p in full][-1] == "VALID"
    assert len(full) > 1
    assert full[-1].target_qps <= 18.0


@pytest.mark.parametrize(("capacity", "message"), [(1e-6, "no rate was VALID"), (1e9, "every rate was VALID")])
def test_a_search_without_an_end_says_what_to_change(tmp_path: Path, capacity: float, message: str) -> None:
    with pytest.raises(RunError, match=message):
        search_rate(config(), MachineOfKnownSpeed(capacity), tmp_path)  # type: ignore[arg-type]
