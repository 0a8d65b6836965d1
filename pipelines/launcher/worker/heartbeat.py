"""The heartbeat of a rank: a thread that tells the conductor every second that the process lives, and learns when to leave.

On the same connection go power samples, and round trips that tell how the two clocks stand.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import zmq

from pipelines.launcher import messages
from pipelines.launcher.worker.clock_sync import ConductorClock
from pipelines.launcher.worker.connection import connect
from pipelines.launcher.worker.power_sampler import PowerSampler
from workloads.run_folder.media import MediaWriter

BEAT_EVERY_S = 1.0
ROUND_TRIP_MS = 200  # how long a heartbeat's answer is waited for, which tells how the clocks stand
GOODBYE_S = 0.3
LEAVE_S = 4.0  # how long a rank that has to leave may take to get its answers onto the disk


class Heartbeat:
    """timeout_s: how long the conductor may be silent before this rank leaves."""

    def __init__(
        self,
        rank: int,
        context: zmq.Context[zmq.Socket[bytes]],
        address: messages.Address,
        timeout_s: float,
        clock: ConductorClock,
        sampler: PowerSampler | None,
        writer: MediaWriter,
    ) -> None:
        self._rank, self._context, self._address, self._timeout_s = rank, context, address, timeout_s
        self._clock, self._sampler, self._writer = clock, sampler, writer
        self._leave: tuple[float, str] | None = None  # when and why this rank has to leave
        self._over, self._said_goodbye = threading.Event(), threading.Event()
        self._goodbye: messages.Bye | None = None
        self._thread = threading.Thread(target=self._run, daemon=True, name="heartbeat")
        self._thread.start()

    @property
    def why_leave(self) -> str | None:
        """Why this rank has to leave, LEAVE_S after it learnt so; None where it may stay."""
        return self._leave[1] if self._leave and time.monotonic() - self._leave[0] > LEAVE_S else None

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def say_goodbye(self, bye: messages.Bye) -> None:
        """Send the message in place of a main thread that is stuck, and no more heartbeats."""
        self._goodbye = bye
        self._over.set()
        self._said_goodbye.wait(ROUND_TRIP_MS / 1000 + GOODBYE_S)
        time.sleep(GOODBYE_S)  # zmq sends in a thread of its own

    def _run(self) -> None:
        sock = connect(self._context, self._address, f"beat-{self._rank}")
        sock.send(messages.encode(messages.Hello(self._rank, socket.gethostname())))
        heard = time.monotonic()
        while True:
            with contextlib.suppress(zmq.Again):
                sock.send(messages.encode(messages.Beat(self._rank, time.perf_counter())), zmq.NOBLOCK)
            if self._sampler and (samples := self._sampler.take(self._clock)):
                with contextlib.suppress(zmq.Again):
                    sock.send(messages.encode(messages.Power(self._rank, samples)), zmq.NOBLOCK)
            if self._writer.disk_full:
                sock.send(messages.encode(messages.Failed(self._rank, self._writer.disk_full)))
            patience_ms = ROUND_TRIP_MS  # for the answer to this beat
            while sock.poll(patience_ms):
                heard, message = time.monotonic(), messages.decode_for_heartbeat(sock.recv())
                if isinstance(message, messages.Beat) and message.sent:
                    self._clock.add_round_trip(message.sent, message.at, time.perf_counter())
                    patience_ms = 0
                if isinstance(message, messages.Stop):
                    self._leave = self._leave or (heard, message.why)
            if time.monotonic() - heard > self._timeout_s:
                silent = f"the conductor, on rank 0's host, has been silent for {self._timeout_s:.0f} s"
                self._leave = self._leave or (heard, silent)
            if self._over.wait(BEAT_EVERY_S):
                break
        if self._goodbye:
            sock.send(messages.encode(self._goodbye))
            self._said_goodbye.set()
            return
        sock.close(linger=0)
