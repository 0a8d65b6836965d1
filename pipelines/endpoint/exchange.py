"""One try of one query: what an API is given, and what it reports back."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from pipelines.base import Response
from pipelines.endpoint.connections import Server
from workloads.records import Query, Sample


class Answer(Protocol):
    """What a try came to."""

    def response(self) -> Response:
        """Raises QueryError where there is none."""


class Exchange(NamedTuple):
    """on_first_token: to be called with its time when the first token arrives. on_end: once, when the answer is there or has failed.

    lag_s: how late the event loop is at a time.
    """

    server: Server
    sample: Sample
    query: Query
    on_first_token: Callable[[float], None]
    on_end: Callable[[Answer], None]
    lag_s: Callable[[float], float]


class Api(Protocol):
    """How one kind of answer is requested."""

    def start(self, exchange: Exchange) -> Callable[[], None]:
        """Send a query; the function that it returns gives it up. Raises QueryError where it cannot be sent."""
