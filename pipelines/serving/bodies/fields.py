"""Bodies of requests: read as JSON, and the fields that all of them have."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from configs.decode import SHOWN
from configs.errors import first_line, unknown
from pipelines.serving.errors import BadRequestError

T = TypeVar("T")
BODY_S = 60.0  # for a body to arrive
MOST_WARNINGS = 8


async def json_body(request: web.Request) -> dict[str, Any]:
    if request.content_type != "application/json":
        raise BadRequestError(f"the body is {request.content_type}; send JSON, with Content-Type: application/json")
    data = await arrived(request.read())
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except (ValueError, RecursionError) as error:
        raise BadRequestError(f"the body is not JSON: {first_line(error)[:SHOWN]}; send a JSON object") from None


async def arrived(body: Awaitable[T]) -> T:
    """A body, read within BODY_S."""
    try:
        async with asyncio.timeout(BODY_S):
            return await body
    except TimeoutError:
        raise BadRequestError(f"the body did not arrive within {BODY_S:g} s", status=408) from None


def check_model(body: Mapping[str, Any], model: str) -> None:
    if (name := body.get("model")) not in (None, model):
        raise BadRequestError(unknown("model", name, [model]), "model", "model_not_found", 404)


def read_seed(body: Mapping[str, Any]) -> int:
    """The seed of a request; a random one where it has none."""
    seed = body.get("seed")
    if seed is None:
        return random.getrandbits(63)
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise BadRequestError(f"seed is {seed!r:.80}; give a whole number from 0 to 2**63 - 1", "seed")
    return seed


def unknown_fields(body: Mapping[str, Any], known: Sequence[str]) -> list[str]:
    """Warnings of the fields that the server does not know; RFC 7234, code 299."""
    names = [name for name in body if name not in known][:MOST_WARNINGS]
    return [warning(unknown("field", name[:SHOWN], known).partition("; known")[0] + " is ignored") for name in names]


def warning(text: str) -> str:
    """A value of the header Warning."""
    return f'299 triptych "{_in_header(text)}"'


def _in_header(text: str) -> str:
    """As a quoted string of a header: no line breaks, no characters outside ASCII."""
    return ascii(text)[1:-1].replace("\\", "").replace('"', "'")
