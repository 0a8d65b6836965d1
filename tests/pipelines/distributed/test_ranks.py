"""Ranks that do not find each other, or do not see the same folder."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from configs.errors import ConfigError, RunError
from configs.load_config import load_config
from pipelines.distributed.ranks import Ranks, check_all_see, check_environment, join_ranks, spans_nodes


def test_ranks_that_run_alone_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = SimpleNamespace(num_processes=1, process_index=0, device="cpu")
    monkeypatch.setattr("accelerate.PartialState", lambda **_: alone)
    monkeypatch.setattr("pipelines.distributed.ranks.roll_call", contextlib.nullcontext)
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


WHOLE = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"PMI_SIZE": "2"}, "PMI_SIZE is 2, but RANK is not set: this process was not started as one of several ranks"),
        ({"OMPI_COMM_WORLD_SIZE": "16"}, "OMPI_COMM_WORLD_SIZE is 16, but RANK is not set"),
        ({"MV2_COMM_WORLD_SIZE": "2", "WORLD_SIZE": "1"}, "MV2_COMM_WORLD_SIZE is 2, but RANK is not set"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2, but RANK is not set: .* Start ranks by accelerate launch .*, or unset it"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE must be a number, got 'two'"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE must be a number, got ''"),
        ({"WORLD_SIZE": "0", "RANK": "0"}, "WORLD_SIZE must be at least 1, got 0"),
        ({"RANK": "3"}, "RANK is 3, but WORLD_SIZE is not set"),
        ({"LOCAL_RANK": "0"}, "LOCAL_RANK is 0, but WORLD_SIZE is not set"),
        (WHOLE | {"RANK": "2"}, "RANK is 2, but WORLD_SIZE is 2: ranks are numbered from 0 to 1"),
        ({k: v for k, v in WHOLE.items() if k != "MASTER_PORT"}, "WORLD_SIZE is 2, but MASTER_PORT is not set"),
        (WHOLE | {"MASTER_PORT": "x"}, "MASTER_PORT must be a number, got 'x'"),
    ],
)
def test_a_variable_for_ranks_that_nobody_starts_is_named(env: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_environment(env)


@pytest.mark.parametrize(
    "env",
    [{}, WHOLE, WHOLE | {"PMI_SIZE": "4"}, {"PMI_SIZE": "1"}, {"WORLD_SIZE": "1"}, {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}],
)
def test_a_launchers_variables_and_those_of_one_process_are_accepted(env: dict[str, str]) -> None:
    check_environment(env)


@pytest.mark.parametrize(
    ("env", "several"), [({}, False), ({"WORLD_SIZE": "1"}, False), (WHOLE, False), (WHOLE | {"WORLD_SIZE": "4"}, True)]
)
def test_ranks_span_nodes_where_not_all_are_on_this_one(monkeypatch: pytest.MonkeyPatch, env: dict[str, str], several: bool) -> None:
    for name in WHOLE:
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert spans_nodes() is several
