"""When a rank leaves: where the conductor says so, or is silent."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from pipelines.launcher import messages
from pipelines.launcher.worker import heartbeat
from pipelines.launcher.worker.clock_sync import ConductorClock
from pipelines.launcher.worker.heartbeat import Heartbeat
from workloads.run_folder.media import MediaWriter

TIMEOUT_S = 1.0


@pytest.fixture
def beating(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[zmq.Socket[bytes], Heartbeat]]:
    """A heartbeat, and the conductor's end of its connection."""
    for name, seconds in (("BEAT_EVERY_S", 0.05), ("LEAVE_S", 0.0), ("ROUND_TRIP_MS", 20)):
        monkeypatch.setattr(heartbeat, name, seconds)
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    address = messages.Address(f"ipc://{tmp_path}/conductor")
    router.bind(address.url)
    beat = Heartbeat(3, context, address, TIMEOUT_S, ConductorClock(), None, MediaWriter(tmp_path))
    yield router, beat
    beat.stop()
    router.close(linger=0)
    context.term()


def answer(router: zmq.Socket[bytes], seconds: float) -> None:
    """Send every beat back, as the conductor does."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if router.poll(10):
            name, payload = router.recv_multipart()
            message = messages.decode_from_worker(payload)
            if isinstance(message, messages.Beat):
                router.send_multipart([name, messages.encode(messages.Beat(3, message.sent, time.perf_counter()))])


def why_leave(beat: Heartbeat) -> str | None:
    ends = time.monotonic() + 5
    while beat.why_leave is None and time.monotonic() < ends:
        time.sleep(0.01)
    return beat.why_leave


def test_a_rank_stays_while_the_conductor_answers_and_leaves_when_it_is_silent(
    beating: tuple[zmq.Socket[bytes], Heartbeat],
) -> None:
    router, beat = beating
    answer(router, 1.5 * TIMEOUT_S)
    assert beat.why_leave is None
    assert str(why_leave(beat)).startswith("the conductor, on rank 0's host, has been silent for")


def test_a_rank_leaves_when_the_conductor_says_stop(beating: tuple[zmq.Socket[bytes], Heartbeat]) -> None:
    router, beat = beating
    name, payload = router.recv_multipart()
    assert isinstance(messages.decode_from_worker(payload), messages.Hello)
    router.send_multipart([name, messages.encode(messages.Stop("aborted", "rank 1 on node7 died"))])
    assert why_leave(beat) == "rank 1 on node7 died"
