from __future__ import annotations

import socket
import time

import pytest
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from pipelines.distributed import roll_call as calls
from pipelines.distributed.roll_call import roll_call

HERE = socket.gethostname()


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> TCPStore:
    """Rank 0's, as torch makes it; ranks 1 and 3 of four are there."""
    made = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for name, value in {"RANK": "0", "WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(made.port)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(calls, "PATIENCE_S", 0.3)
    monkeypatch.setattr(calls, "RETRY_S", 0.1)
    return made


def wait_for(capfd: pytest.CaptureFixture[str]) -> str:
    said = ""
    give_up = time.monotonic() + 10
    while not said and time.monotonic() < give_up:
        time.sleep(0.05)
        said = capfd.readouterr().err
    return said


def test_the_first_rank_that_waits_names_those_that_are_missing(
    store: TCPStore, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    store.set("triptych-rank-3", "node3")
    with roll_call():
        said = wait_for(capfd)
    assert f"rank 0 of 4, on {HERE}, waits for ranks 1, 2, not there after 0 s: not started, or without a connection to 127.0.0.1" in said
    monkeypatch.setenv("RANK", "3")
    with roll_call():
        time.sleep(1.0)
    assert capfd.readouterr().err == ""  # rank 0 says it


def test_nothing_is_said_of_ranks_that_join_in_time(store: TCPStore, capfd: pytest.CaptureFixture[str]) -> None:
    with roll_call():
        pass
    time.sleep(0.6)
    assert capfd.readouterr().err == ""


def test_a_first_rank_that_never_came_is_named_by_the_others(
    store: TCPStore, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MASTER_PORT", str(free.getsockname()[1]))
    monkeypatch.setenv("RANK", "2")
    with roll_call():
        said = wait_for(capfd)
    assert f"rank 2 of 4, on {HERE}, waits for rank 0: nothing answers at 127.0.0.1:" in said
