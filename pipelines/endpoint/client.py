"""Connections to one or several servers, kept alive, on a thread with its own event loop.

Queries come from the pipeline's thread and events return through a queue. An error of one query is its failed Response.
"""

from __future__ import annotations

import asyncio
import queue
import random
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import aiohttp
import msgspec

from configs.decode import reading
from configs.errors import ConfigError
from pipelines.base import Event, Response
from pipelines.distributed.dispatch import PushDispatch, ReplicaState
from workloads.records import Query, Sample

KEEP_ALIVE_S = 4.0  # uvicorn, which vLLM and SGLang use, closes an idle connection after 5 s, and a request sent at that moment is lost
QUOTE_LENGTH = 300  # characters of a server's message that an error quotes


class QueryError(Exception):
    """Why a query has no answer. retryable: another try may succeed."""

    def __init__(self, message: str, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


class Exchange(NamedTuple):
    """One try of one query. on_first_token: to be called when the first token arrives."""

    session: aiohttp.ClientSession
    url: str
    sample: Sample
    query: Query
    on_first_token: Callable[[], None]


Api = Callable[[Exchange], Awaitable[Response]]


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


@dataclass(slots=True)
class _Item:
    sample: Sample
    query: Query
    since: float
    sample_index: int
    expected: float = 0.0  # for PushDispatch


class Client:
    """Sends queries to servers. Raises ConfigError where tls_verify is not a readable file of authorities."""

    def __init__(self, connections: Connections, key: str | None) -> None:
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.api: Api | None = None
        self._connections, self._secret = connections, key
        self._dispatch = PushDispatch(connections.policy)
        for place in range(len(connections.urls)):
            self._dispatch.join(ReplicaState(place, connections.per_url, 1.0, True))
        self._tasks: set[asyncio.Task[None]] = set()
        tls = _tls(connections.tls_verify)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="endpoint", daemon=True)
        self._thread.start()
        self._session = asyncio.run_coroutine_threadsafe(self._open(tls), self._loop).result()

    def models(self) -> list[Listing]:
        """The description of every server, in order. Raises ConfigError where one cannot be reached or refuses."""
        return [asyncio.run_coroutine_threadsafe(self._models(url), self._loop).result() for url in self._connections.urls]

    def submit(self, samples: Sequence[Sample], queries: Sequence[Query]) -> None:
        now = time.perf_counter()
        items = [_Item(s, q, now, s.index) for s, q in zip(samples, queries, strict=True)]
        self._loop.call_soon_threadsafe(self._take, items)

    def check(self) -> None:
        """Raises RuntimeError where the thread has ended."""
        if not self._thread.is_alive():
            raise RuntimeError("the thread with the connections has ended")

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(timeout=5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5)
        self._loop.close()

    async def _open(self, tls: ssl.SSLContext | bool) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=tls, keepalive_timeout=KEEP_ALIVE_S),
            timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_connect=self._connections.connect_timeout_s, sock_read=None),
            headers={"Authorization": f"Bearer {self._secret}"} if self._secret else {},
        )

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._session.close()

    async def _models(self, url: str) -> Listing:
        fix, limit_s = "start it, or correct pipeline.url", self._connections.connect_timeout_s
        try:
            async with (
                asyncio.timeout(limit_s),
                # a server may close this connection after its reply, as uvicorn does after a 500; a query must not be sent over it
                self._session.get(f"{url}/v1/models", allow_redirects=False, headers={"Connection": "close"}) as answer,
            ):
                server = answer.headers.get("Server", "gives no name")
                if answer.status in (401, 403):
                    fix = "give its key by pipeline.api_key_env"
                    raise QueryError(f"{url}/v1/models: {await _status(answer)}")
                if answer.status != 200:  # 404 of video servers; 500 of `transformers serve` without a hub cache
                    return Listing(None, server)
                return Listing(listed_models(await answer.read()), server)
        except (QueryError, aiohttp.ClientError, OSError, TimeoutError) as error:
            raise ConfigError(f"pipeline 'endpoint': {self._redacted(_describe(error, url, limit_s))}; {fix}") from None
        except ValueError:
            raise ConfigError(f"pipeline 'endpoint': {url}/v1/models does not return a list of models; {fix}") from None

    def _take(self, items: Sequence[_Item]) -> None:
        self._dispatch.add(items)
        self._assign()

    def _assign(self) -> None:
        """Start as many queries as there are free connections."""
        for place, items in self._dispatch.assign(time.perf_counter()):
            for item in items:
                assert isinstance(item, _Item)
                task = self._loop.create_task(self._answer(item, place))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _answer(self, item: _Item, place: int) -> None:
        url, began = self._connections.urls[place], time.perf_counter()
        stages = {"client_queue": began - item.since}
        try:
            async with asyncio.timeout(self._connections.timeout_s):
                response = await self._try(url, item, stages)
        except TimeoutError:
            response = Response(error=f"{url}: the answer did not end within {self._connections.timeout_s:g} s (timeout_s)")
        except QueryError as error:
            response = Response(error=self._redacted(str(error)))
        except Exception as error:  # a bug here, or an unforeseen reply: only this query fails
            response = Response(error=self._redacted(f"{url}: {type(error).__name__}: {error}"))
        response = msgspec.structs.replace(response, stages=stages | dict(response.stages))
        self.events.put(Event(item.query.id, response=response))
        self._dispatch.finished(place, [(item, response.num_input_tokens + response.num_units)], time.perf_counter())
        self._assign()

    async def _try(self, url: str, item: _Item, stages: dict[str, float]) -> Response:
        assert self.api is not None
        has_first_token = False

        def on_first_token() -> None:
            nonlocal has_first_token
            has_first_token = True
            self.events.put(Event(item.query.id, first_token_id=0))  # servers do not send token ids

        for number in range(self._connections.retries + 1):
            try:
                return await self.api(Exchange(self._session, url, item.sample, item.query, on_first_token))
            except (QueryError, aiohttp.ClientError, OSError) as error:
                retryable = error.retryable if isinstance(error, QueryError) else isinstance(error, aiohttp.ClientConnectionError | OSError)
                if has_first_token or not retryable or number == self._connections.retries:
                    raise QueryError(_describe(error, url, self._connections.connect_timeout_s)) from None
            wait_s = self._connections.back_off_s * 2**number * random.uniform(0.5, 1.5)
            stages["back_off"] = stages.get("back_off", 0.0) + wait_s
            await asyncio.sleep(wait_s)
        raise AssertionError("the last try returns or raises")

    def _redacted(self, text: str) -> str:
        """The text without the key, which servers quote when they refuse it."""
        return text.replace(self._secret, "***") if self._secret else text


async def check_status(answer: aiohttp.ClientResponse, url: str) -> None:
    """Raises QueryError unless the status is 2xx."""
    if not 200 <= answer.status < 300:
        raise QueryError(f"{url}: {await _status(answer)}", retryable=answer.status in (429, 500, 502, 503, 504))


async def read_json(answer: aiohttp.ClientResponse, url: str) -> dict[str, Any]:
    await check_status(answer, url)
    with reading(f"{url}: the answer of status {answer.status}", "it is not a JSON object", QueryError):
        return msgspec.json.decode(await answer.read(), type=dict[str, Any])


def listed_models(content: bytes) -> list[str]:
    """The models of a list of /v1/models. Raises ValueError where it is none."""
    with reading("the list of models", failure=ValueError):
        return [model.id for model in msgspec.json.decode(content, type=_Models).data]


def error_text(body: Any) -> str:
    """The message in a server's error, in OpenAI's form or another."""
    error = body.get("error", body.get("detail", body)) if isinstance(body, Mapping) else body
    if isinstance(error, Mapping):
        error = error.get("message", error)
    return " ".join(str(error).split())[:QUOTE_LENGTH]


async def _status(answer: aiohttp.ClientResponse) -> str:
    text = await answer.text(errors="replace")
    try:
        text = error_text(msgspec.json.decode(text))
    except (ValueError, RecursionError):
        text = " ".join(text.split())[:QUOTE_LENGTH]
    return f"status {answer.status} {answer.reason or ''}".rstrip() + (f": {text}" if text else "")


def _describe(error: Exception, url: str, connect_timeout_s: float) -> str:
    if isinstance(error, QueryError):
        return str(error)
    if isinstance(error, TimeoutError):  # aiohttp's errors for sockets are among them
        return f"{url}: no connection within {connect_timeout_s:g} s (connect_timeout_s)"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"{url}: its certificate is not trusted ({error.certificate_error}); name the authority by tls_verify"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"{url}: no connection: {error.os_error.strerror or error.os_error}"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return f"{url}: the server closed the connection without an answer"
    if isinstance(error, aiohttp.ClientPayloadError):
        return f"{url}: the answer was cut short"
    return f"{url}: {type(error).__name__}: {error}"


def _tls(verify: bool | str) -> ssl.SSLContext | bool:
    if isinstance(verify, bool):
        return verify
    try:
        return ssl.create_default_context(cafile=verify)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"pipeline 'endpoint': tls_verify names {verify!r}, which is not a file of authorities: {error}") from None
