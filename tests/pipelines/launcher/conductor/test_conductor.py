"""Which of several reasons for the end of a test counts."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from configs.load_config import parse_config
from pipelines.launcher import messages
from pipelines.launcher.conductor.conductor import Conductor
from pipelines.launcher.conductor.job import JobSpec

Socket = zmq.Socket[bytes]


@pytest.fixture
def sockets(tmp_path: Path) -> Iterator[tuple[Socket, Socket]]:
    """The conductor's, and rank 0's."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router, context.socket(zmq.DEALER) as worker:
        worker.setsockopt(zmq.IDENTITY, b"worker-0")
        url = f"ipc://{tmp_path}/conductor"
        router.bind(url)
        worker.connect(url)
        yield router, worker
        router.close(linger=0)
        worker.close(linger=0)


def conductor(folder: Path, router: Socket) -> Conductor:
    config = parse_config({"workload": "t2v", "pipeline": {"name": "toy_t2v"}}, "test")
    reading, writing = os.pipe()
    open_inputs.append(writing)
    return Conductor(JobSpec(config.model_dump(), "performance", 1, 1, str(folder), "videos", False), router, os.fdopen(reading))


open_inputs: list[int] = []  # that nobody writes to


@pytest.fixture(autouse=True)
def _close_inputs() -> Iterator[None]:
    yield
    while open_inputs:
        os.close(open_inputs.pop())


def test_a_failed_warm_up_counts_however_soon_rank_0_ends_after_it(sockets: tuple[Socket, Socket], tmp_path: Path) -> None:
    """Its message and the end of our input may be there at once; the run was then called interrupted, with another exit code."""
    router, worker = sockets
    one = conductor(tmp_path, router)
    worker.send(messages.encode(messages.Failed(0, "RunError: warm-up failed: no memory")))
    time.sleep(0.1)
    one._end_as_requested("interrupted by SIGTERM at rank 0 on host7\n")
    assert one.aborted == "rank 0: RunError: warm-up failed: no memory"


@pytest.mark.parametrize(
    ("why", "reason"),
    [
        ("rank 0 on host7: ValueError: shapes differ\n", "rank 0 on host7: ValueError: shapes differ"),
        ("interrupted by SIGINT at rank 0 on host7\n", "interrupted by SIGINT at rank 0 on host7"),
        ("", "interrupted"),  # rank 0 was killed
    ],
)
def test_what_rank_0_says_counts_where_no_rank_has_said_anything(
    sockets: tuple[Socket, Socket], tmp_path: Path, why: str, reason: str
) -> None:
    one = conductor(tmp_path, sockets[0])
    one._end_as_requested(why)
    assert one.aborted == reason


def test_a_conductor_whose_rank_0_is_gone_ends_the_test_also_where_others_hold_its_input_open(
    sockets: tuple[Socket, Socket], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = conductor(tmp_path, sockets[0])
    poller = zmq.Poller()
    one._go_round(poller)
    assert one.aborted is None
    monkeypatch.setattr("os.getppid", lambda: 1)
    one._go_round(poller)
    assert one.aborted == "interrupted"
    assert (tmp_path / "outcome.json").is_file()
