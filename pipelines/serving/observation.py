"""What the server itself sees of a request: when it was received, its first token, its end and its tokens; one line each in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from configs.errors import ConfigError
from pipelines.base import Response


class Seen(msgspec.Struct, omit_defaults=True):
    """A request that has ended. Times are seconds since the server had its headers; received_at is Unix time.

    first_token_s, done_s: when the first token, and the last byte, were handed to the network. status: `done`, `refused`, `failed`, or
    `cancelled` where the client closed the connection.
    """

    id: str
    path: str
    received_at: float
    status: str = "done"
    first_token_s: float | None = None
    done_s: float = 0.0
    num_input_tokens: int = 0
    num_output_tokens: int = 0
    finish_reason: str | None = None
    stream: bool = False
    error: str | None = None

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first."""
        if self.first_token_s is None or self.num_output_tokens < 2:
            return None
        return (self.done_s - self.first_token_s) / (self.num_output_tokens - 1)


@dataclass(slots=True)
class Observers:
    """calls: with every request that has ended."""

    calls: list[Callable[[Seen], None]] = field(default_factory=list)


class Observation:
    """One request under way. problem: why an answer that was begun ended early. goes_on: after the response, as a video does."""

    problem: str | None = None
    goes_on: bool = False

    def __init__(self, observers: Observers, request_id: str, path: str) -> None:
        self._observers, self._began = observers, time.perf_counter()
        self.seen = Seen(request_id, path, time.time())

    def first_token(self) -> None:
        if self.seen.first_token_s is None:
            self.seen.first_token_s = time.perf_counter() - self._began

    def answered(self, responses: Sequence[Response]) -> None:
        """With all answers: one, or as many as `n` requests."""
        self.seen.num_input_tokens = responses[0].num_input_tokens
        self.seen.num_output_tokens = sum(response.num_units for response in responses)
        self.seen.finish_reason = responses[0].finish_reason

    def end(self, status: str, error: str | None = None) -> None:
        self.seen.status, self.seen.error = status, error
        self.seen.done_s = time.perf_counter() - self._began
        for call in self._observers.calls:
            call(self.seen)


class RequestLog:
    """A file with a JSON line for every request; lines are written as requests end."""

    def __init__(self, file: Path) -> None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._file = file.open("ab", buffering=0)
        except OSError as error:
            raise ConfigError(f"--log {file} cannot be written: {error.strerror}; name another file") from None

    def __call__(self, seen: Seen) -> None:
        self._file.write(msgspec.json.encode(seen) + b"\n")

    def close(self) -> None:
        self._file.close()
