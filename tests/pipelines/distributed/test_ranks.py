"""Ranks that do not find each other, or do not see the same folder."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from configs.errors import ConfigError, RunError
from configs.load_config import load_config
from pipelines.distributed.ranks import Ranks, check_all_see, join_ranks


def test_ranks_that_run_alone_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = SimpleNamespace(num_processes=1, process_index=0, device="cpu")
    monkeypatch.setattr("accelerate.PartialState", lambda **_: alone)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RunError, match="2 processes were started but Accelerate joined 1: every rank runs alone"):
        join_ranks(load_config(None, "t2v/toy"))


def test_a_node_that_does_not_see_the_run_folder_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("accelerate.utils.gather_object", lambda own: [*own, "node1"])
    with pytest.raises(ConfigError, match=r"node1 cannot see the run folder .*a file system that all nodes share"):
        check_all_see(tmp_path, Ranks(0, 2, torch.device("cpu")))


@pytest.mark.parametrize(
    ("device", "accelerator", "on_cpu"), [("cpu", True, True), ("cpu", False, True), ("auto", True, False), ("auto", False, True)]
)
def test_ranks_are_on_the_accelerator_where_there_is_one_and_the_cpu_was_not_requested(
    monkeypatch: pytest.MonkeyPatch, device: str, accelerator: bool, on_cpu: bool
) -> None:
    def joined(cpu: bool) -> SimpleNamespace:
        return SimpleNamespace(num_processes=1, process_index=0, device="cpu" if cpu else "cuda")

    monkeypatch.setattr("accelerate.PartialState", joined)
    monkeypatch.setattr("torch.accelerator.is_available", lambda: accelerator)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    ranks = join_ranks(load_config(None, "t2v/toy", [f"device={device}"]))
    assert str(ranks.device) == ("cpu" if on_cpu else "cuda")
