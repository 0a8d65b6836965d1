"""A rank of a replica that is not its leader. It runs the leader's batches; its outputs are discarded.

It sends heartbeats and errors as any worker does, so that the conductor detects its death. It gets queries from the leader alone.
Where the pipeline streams, its engine receives them by itself, and the conductor says when to stop.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from configs.errors import RunError, describe
from pipelines.base import StreamingPipeline
from pipelines.launcher import messages
from pipelines.launcher.worker.memory import peak_memory
from pipelines.launcher.worker.worker import Worker

if TYPE_CHECKING:
    import torch

ENGINE_STEP_S = 0.2
RETURN_S = 3.0  # how long this rank's own end may take after the test's


class Follower(Worker):
    """A follower's part in one LoadGen test."""

    def run(self, device: torch.device, num_warmups: int, seed: int, loaded: bool, check: Callable[[], None]) -> None:
        """Load unless `loaded`, and follow until the conductor says stop; warm-ups come from the leader as well.

        An error is sent to the conductor and raised. Raises RunError where the run was given up.
        """
        try:
            if not loaded:
                self.pipeline.load(device)
            self._send(messages.Beat(self.rank))  # from now on the conductor sends this rank its Stop
            self._begin_sampling()
            stop = self._follow_engine(self.pipeline, check) if isinstance(self.pipeline, StreamingPipeline) else self._follow_batches()
        except Exception as error:
            self._send(messages.Failed(self.rank, describe(error)))
            raise
        self._end_sampling()
        self._send(messages.Bye(self.rank, peak_memory(device), self._writer.finish()))
        if stop.reason == "aborted":
            raise RunError("the run was given up")

    def _follow_batches(self) -> messages.Stop:
        while True:
            message: messages.FromConductor = messages.decode_from_conductor(self.pipeline.replica.hear())
            if isinstance(message, messages.Stop):
                return message
            assert isinstance(message, messages.Work)
            self.pipeline.generate([self.samples[q.sample_index] for q in message.queries], message.queries)

    def _follow_engine(self, engine: StreamingPipeline, check: Callable[[], None]) -> messages.Stop:
        while not self._socket.poll(0):
            engine.step(ENGINE_STEP_S)  # raises where the engine is broken
        message = self._next(check)
        assert isinstance(message, messages.Stop)
        return message


def leave_where_stuck(ended: Callable[[], bool], over: threading.Event, before_exit: Callable[[], None]) -> None:
    """End this process where the test has `ended` and its main thread does not return to set `over`.

    A rank that waits on the device for one that died never wakes, and receives no signal.
    before_exit: called before the end; writes what the run leaves behind.
    """

    def watch() -> None:
        while not over.wait(1.0):
            if ended():
                if not over.wait(RETURN_S):
                    before_exit()
                    os._exit(1)
                return

    threading.Thread(target=watch, daemon=True, name="stuck-watch").start()
