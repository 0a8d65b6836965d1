"""What a request sets for itself, as far as the pipeline can do it for one query: length, sampling, where the answer ends.

A field that equals the effective setting is accepted by every pipeline. Any other value that the pipeline cannot do for one query is
refused with the option to set, so that a client measures what it requested.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from pipelines.base import Pipeline, QueryOptions
from pipelines.serving.bodies.fields import warning
from pipelines.serving.errors import BadRequestError

FIELDS = ("max_tokens", "max_completion_tokens", "min_tokens", "ignore_eos", "stop", "temperature", "top_p", "top_k")


def read_options(body: Mapping[str, Any], pipeline: Pipeline) -> tuple[QueryOptions, list[str]]:
    """The options of one request, and warnings."""
    can = pipeline.query_options()
    options, warnings = QueryOptions(), list[str]()
    longest, warnings = _length(body, pipeline, can)
    options = msgspec.structs.replace(options, max_new_tokens=longest, stop=_stop(body, can), **_end(body, can))
    if options.max_new_tokens is not None and options.min_new_tokens > options.max_new_tokens:
        raise BadRequestError(f"min_tokens is {options.min_new_tokens}, more than max_tokens, {options.max_new_tokens}", "min_tokens")
    return msgspec.structs.replace(options, **_sampling(body, pipeline, can)), warnings


def _length(body: Mapping[str, Any], pipeline: Pipeline, can: frozenset[str]) -> tuple[int | None, list[str]]:
    """The number of tokens where it is below the pipeline's limit."""
    limit, found = getattr(pipeline, "max_new_tokens", None), dict[str, int]()
    for name in ("max_tokens", "max_completion_tokens"):
        if body.get(name) is not None:
            found[name] = _whole(name, body[name], 1)
    if not found:
        return None, []
    name, requested = next(iter(found.items()))
    if len(set(found.values())) > 1:
        raise BadRequestError(
            f"max_tokens is {found['max_tokens']}, max_completion_tokens {found['max_completion_tokens']}; give one", name
        )
    if limit is not None and requested >= limit:
        over = f"{name} is {requested}; this server's limit of {limit} tokens stays in force"
        return None, [warning(over)] if requested > limit else []
    if "max_new_tokens" in can:
        return requested, []
    if limit is None:
        raise BadRequestError(f"{name} is {requested}, but this server's engine has no such option; leave it out", name)
    fix = f"leave it out, or start the server with --set pipeline.max_new_tokens={requested}"
    raise BadRequestError(f"{name} is {requested}, but this server has a limit of {limit} tokens for all requests; {fix}", name)


def _end(body: Mapping[str, Any], can: frozenset[str]) -> dict[str, Any]:
    """What keeps an answer from ending."""
    ignore = body.get("ignore_eos")
    if ignore not in (None, True, False) or type(ignore) is int:
        raise BadRequestError(f"ignore_eos is {ignore!r:.80}; give true or false", "ignore_eos")
    fewest = 0 if body.get("min_tokens") is None else _whole("min_tokens", body["min_tokens"], 0)
    for name, field, is_set in (("ignore_eos", "ignore_eos", bool(ignore)), ("min_tokens", "min_new_tokens", fewest > 0)):
        if is_set and field not in can:
            raise BadRequestError(f"{name} is {body[name]!r:.80}, which this server's engine does not support; leave it out", name)
    return {"ignore_eos": bool(ignore), "min_new_tokens": fewest}


def _stop(body: Mapping[str, Any], can: frozenset[str]) -> tuple[str, ...]:
    stop = body.get("stop")
    texts = [] if stop in (None, "") else [stop] if isinstance(stop, str) else stop
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        raise BadRequestError(f"stop is {stop!r:.80}; give a text, or a list of texts", "stop")
    if texts and "stop" not in can:
        raise BadRequestError(f"stop is {stop!r:.80}, which this server's engine does not support; leave it out", "stop")
    return tuple(texts)


def _sampling(body: Mapping[str, Any], pipeline: Pipeline, can: frozenset[str]) -> dict[str, Any]:
    """temperature, top_p and top_k where they differ from the pipeline's. Under greedy decoding, top_p and top_k have no effect."""
    sampled = bool(getattr(pipeline, "do_sample", False))
    own = {"temperature": getattr(pipeline, "temperature", None) if sampled else 0.0}
    temperature = body.get("temperature")
    if (own["temperature"] if temperature is None else temperature) != 0:
        own |= {name: getattr(pipeline, name, None) for name in ("top_p", "top_k")}
    differing = {}
    for name, value in own.items():
        requested = body.get(name)
        if requested is None or requested == value or (value is None and (name, requested) in (("top_p", 1), ("top_k", -1), ("top_k", 0))):
            continue
        if name in can:
            differing[name] = _checked(name, requested)
            continue
        shown = "not set" if value is None else f"{value:g}"
        how = "--set pipeline.do_sample=true " if hasattr(pipeline, "do_sample") and not sampled else ""
        fix = f", or start the server with {how}--set pipeline.{name}={requested}" if hasattr(pipeline, name) else ""
        raise BadRequestError(f"{name} is {requested!r:.80}, but this server has {shown} for all requests; leave it out{fix}", name)
    return differing


def _checked(name: str, value: Any) -> float | int:
    if name == "top_k":
        return max(0, _whole(name, value, -1))
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise BadRequestError(f"{name} is {value!r:.80}; give a number of at least 0", name)
    if name == "top_p" and not 0 < value <= 1:
        raise BadRequestError(f"top_p is {value}; give a number above 0, up to 1", name)
    return float(value)


def _whole(name: str, value: Any, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**31:
        known = "a positive whole number" if least == 1 else f"a whole number of at least {least}"
        raise BadRequestError(f"{name} is {value!r:.80}; give {known}", name)
    return value
