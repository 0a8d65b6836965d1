"""Queries on their way to one or several servers: which one, when to try again, when to give up.

The event loop runs in the caller's thread, while it is in `step`: with a thread of its own every answer would wait for Python's lock, up
to 5 ms, while the caller works on another one. Clients in several processes are several ranks.
"""

from __future__ import annotations

import asyncio
import functools
import random
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from configs.decode import reading
from configs.errors import ConfigError
from pipelines.base import Event, Response
from pipelines.distributed.dispatch import PushDispatch, ReplicaState
from pipelines.endpoint.connections import Server
from pipelines.endpoint.errors import QueryError, status_text
from pipelines.endpoint.exchange import Answer, Api, Exchange
from pipelines.endpoint.http_reply import MalformedReplyError
from pipelines.endpoint.lag import LagProbe
from workloads.records import Query, Sample


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


@dataclass(frozen=True, slots=True)
class Connections:
    """The options of `endpoint` for reaching servers."""

    urls: tuple[str, ...]
    policy: str
    per_url: int
    timeout_s: float
    connect_timeout_s: float
    retries: int
    back_off_s: float
    tls_verify: bool | str


class Listing(NamedTuple):
    """A server's own description. models: None where it has no list of them."""

    models: list[str] | None
    server: str


@dataclass(slots=True, eq=False)
class _Running:
    """A query that was submitted. place: of its server. give_up: ends its current try."""

    sample: Sample
    query: Query
    since: float
    sample_index: int
    expected: float = 0.0  # for PushDispatch
    place: int = -1
    deadline: float = 0.0  # on the loop's clock
    num_tries: int = 0
    has_first_token: bool = False
    stages: dict[str, float] = field(default_factory=dict)
    give_up: Callable[[], None] | None = None


class Client:
    """Sends queries to servers. Raises ConfigError where tls_verify is not a readable file of authorities."""

    def __init__(self, connections: Connections, key: str | None) -> None:
        self.api: Api | None = None
        self._connections, self._secret = connections, key
        self._dispatch = PushDispatch(connections.policy)
        for place in range(len(connections.urls)):
            self._dispatch.join(ReplicaState(place, connections.per_url, 1.0, True))
        is_secure = any(url.lower().startswith("https") for url in connections.urls)
        tls = _tls(connections.tls_verify) if is_secure or isinstance(connections.tls_verify, str) else None
        self.loop = asyncio.new_event_loop()
        self._servers = [Server(self.loop, url, tls, key, connections.connect_timeout_s) for url in connections.urls]
        self._lag = LagProbe(self.loop)
        self._events: list[Event] = []
        self._ended: list[tuple[_Running, Answer]] = []
        self._running: dict[int, _Running] = {}  # in the order of their deadlines
        self._sweep: asyncio.TimerHandle | None = None
        self._watched: int | None = None

    def models(self) -> list[Listing]:
        """The description of every server, in order. Raises ConfigError where one cannot be reached or refuses."""
        return [self.loop.run_until_complete(self._models(server)) for server in self._servers]

    def submit(self, samples: Sequence[Sample], queries: Sequence[Query]) -> None:
        now = time.perf_counter()
        if not self._running:
            self._lag.start()
            self._run_until(0.0)  # servers may have closed connections since the last query
        self._dispatch.add([_Running(s, q, now, s.index) for s, q in zip(samples, queries, strict=True)])
        self._assign()

    def step(self, timeout_s: float) -> list[Event]:
        """What has happened; waits up to `timeout_s` for the first event."""
        if not self._events and not self._ended:
            self._run_until(timeout_s)
        if self._ended:
            ended, self._ended = self._ended, []
            for running, answer in ended:
                self._finish(running, answer)
            self._assign()
        events, self._events = self._events, []
        return events

    def watch(self, descriptor: int | None) -> None:
        """Have `step` return early when the descriptor becomes readable."""
        if self._watched is not None:
            self.loop.remove_reader(self._watched)
        self._watched = descriptor
        if descriptor is not None:
            self.loop.add_reader(descriptor, self.loop.stop)

    def close(self) -> None:
        for running in self._running.values():
            if running.give_up is not None:
                running.give_up()
        for server in self._servers:
            server.close()
        self._lag.close()
        self._run_until(0.0)
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self._run_until(0.0)
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()

    def _run_until(self, timeout_s: float) -> None:
        """Run the loop until something happens, `timeout_s` at most; once at least."""
        if timeout_s <= 0:
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()
            return
        timer = self.loop.call_later(timeout_s, self.loop.stop)
        self.loop.run_forever()
        timer.cancel()

    async def _models(self, server: Server) -> Listing:
        fix, limit_s = "start it, or correct pipeline.url", self._connections.connect_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                # a server may close this connection after its reply, as uvicorn does after a 500; a query must not be sent over it
                head, content, _ = await server.fetch(server.head("GET", "/v1/models", "Connection: close"), then_close=True)
            name = head.headers.get("server", "gives no name")
            if head.status in (401, 403):
                fix = "give its key by pipeline.api_key_env"
                raise QueryError(f"{server.url}/v1/models: {status_text(head, content)}")
            if head.status != 200:  # 404 of video servers; 500 of `transformers serve` without a hub cache
                return Listing(None, name)
            return Listing(listed_models(content), name)
        except TimeoutError:
            raise ConfigError(f"pipeline 'endpoint': {server.url}: no answer within {limit_s:g} s (connect_timeout_s); {fix}") from None
        except QueryError as error:
            raise ConfigError(f"pipeline 'endpoint': {self._redacted(str(error))}; {fix}") from None
        except (ValueError, MalformedReplyError):
            raise ConfigError(f"pipeline 'endpoint': {server.url}/v1/models does not return a list of models; {fix}") from None

    def _assign(self) -> None:
        """Start as many queries as there are free connections."""
        for place, items in self._dispatch.assign(time.perf_counter()):
            for running in items:
                assert isinstance(running, _Running)
                running.place = place
                running.stages["client_queue"] = time.perf_counter() - running.since
                running.deadline = self.loop.time() + self._connections.timeout_s
                self._running[running.query.id] = running
                self._try(running)
        if self._running and self._sweep is None:
            self._sweep = self.loop.call_at(next(iter(self._running.values())).deadline, self._give_up_late)

    def _try(self, running: _Running) -> None:
        assert self.api is not None
        running.num_tries += 1
        running.give_up = None
        exchange = Exchange(
            self._servers[running.place],
            running.sample,
            running.query,
            functools.partial(self._on_first_token, running),
            functools.partial(self._on_end, running),
            self._lag.lag_s,
        )
        try:
            running.give_up = self.api.start(exchange)
        except QueryError as error:
            self._on_end(running, Failure(error))

    def _on_first_token(self, running: _Running, at: float) -> None:
        running.has_first_token = True
        self._events.append(Event(running.query.id, first_token_id=0, at=at))  # servers do not send token ids
        self.loop.stop()

    def _on_end(self, running: _Running, answer: Answer) -> None:
        self._ended.append((running, answer))
        self.loop.stop()

    def _give_up_late(self) -> None:
        """End the queries whose time is over, and come back for the next one."""
        self._sweep, now = None, self.loop.time()
        for running in [*self._running.values()]:
            if running.deadline > now:
                self._sweep = self.loop.call_at(running.deadline, self._give_up_late)
                break
            if running.give_up is not None:
                running.give_up()
            url, limit_s = self._servers[running.place].url, self._connections.timeout_s
            del self._running[running.query.id]
            self._on_end(running, Failure(QueryError(f"{url}: the answer did not end within {limit_s:g} s (timeout_s)")))

    def _finish(self, running: _Running, answer: Answer) -> None:
        """Turn what a try came to into the query's Response, or start the next try."""
        url = self._servers[running.place].url
        try:
            response = answer.response()
        except QueryError as error:
            if error.retryable and running.num_tries <= self._connections.retries and not running.has_first_token:
                self._try_later(running)
                return
            response = Response(error=self._redacted(str(error)))
        except MalformedReplyError as error:
            response = Response(error=self._redacted(f"{url}: the answer is not HTTP/1.1: {error}"))
        except Exception as error:  # a bug here, or an unforeseen reply: only this query fails
            response = Response(error=self._redacted(f"{url}: {type(error).__name__}: {error}"))
        response = msgspec.structs.replace(response, stages=running.stages | dict(response.stages))
        self._running.pop(running.query.id, None)
        self._events.append(Event(running.query.id, response=response))
        num_tokens = response.num_input_tokens + response.num_units
        self._dispatch.finished(running.place, [(running, num_tokens)], time.perf_counter())

    def _try_later(self, running: _Running) -> None:
        wait_s = self._connections.back_off_s * 2 ** (running.num_tries - 1) * random.uniform(0.5, 1.5)
        running.stages["back_off"] = running.stages.get("back_off", 0.0) + wait_s
        running.give_up = self.loop.call_later(wait_s, self._try, running).cancel

    def _redacted(self, text: str) -> str:
        """The text without the key, which servers quote when they refuse it."""
        return text.replace(self._secret, "***") if self._secret else text


class Failure:
    """A try that came to nothing."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def response(self) -> Response:
        raise self._error


def listed_models(content: bytes) -> list[str]:
    """The models of a list of /v1/models. Raises ValueError where it is none."""
    with reading("the list of models", failure=ValueError):
        return [model.id for model in msgspec.json.decode(content, type=_Models).data]


def _tls(verify: bool | str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=verify if isinstance(verify, str) else None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"pipeline 'endpoint': tls_verify names {verify!r}, which is not a file of authorities: {error}") from None
    if verify is False:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
