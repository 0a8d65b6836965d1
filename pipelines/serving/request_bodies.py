"""Reads bodies of requests, as far as the pipeline can do what they request: its options are fixed when the server starts.

A field that equals the effective setting is accepted; any other value is refused with the option to set.
"""

from __future__ import annotations

import base64
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from configs.errors import unknown
from pipelines.base import Pipeline
from pipelines.serving.engine import Question
from pipelines.serving.errors import BadRequestError

# Fields that no pipeline supports, with the values that have no effect.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "best_of": (None, 1),
    "stop": (None, [], ""),
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "repetition_penalty": (None, 1),
    "logit_bias": (None, {}),
    "logprobs": (None, False, 0),
    "top_logprobs": (None, 0),
    "echo": (None, False),
    "suffix": (None, ""),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "response_format": (None, {"type": "text"}),
    "ignore_eos": (None, False),
    "min_tokens": (None, 0),
    "min_p": (None, 0),
    "store": (None, False),
}
OWN = (
    "model",
    "stream",
    "stream_options",
    "seed",
    "user",
    "metadata",
    "temperature",
    "top_p",
    "top_k",
    "max_tokens",
    "max_completion_tokens",
)


class TextRequest(NamedTuple):
    """include_usage: send usage as a separate chunk at the end of a stream."""

    question: Question
    stream: bool
    include_usage: bool


def read_chat(body: Mapping[str, Any], pipeline: Pipeline, model: str) -> TextRequest:
    """Read a body of /v1/chat/completions: one user message, after at most one system message."""
    if getattr(pipeline, "chat", True) is False:
        raise BadRequestError("this server takes bare prompts: POST /v1/completions, or start it with --set pipeline.chat=true")
    common = _read_common(body, pipeline, model, ("messages",))
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(m, Mapping) for m in messages):
        raise BadRequestError('give a list of messages, such as [{"role": "user", "content": "hello"}]', "messages")
    *before, last = messages
    system = [m for m in before if m.get("role") in ("system", "developer")]
    if last.get("role") != "user" or len(system) != len(before) or len(system) > 1:
        raise BadRequestError(
            "this server's engine answers one prompt, not a conversation: give one user message, after one system message at most",
            "messages",
        )
    if system:
        _check_system(_content(system[0], False)[0], pipeline)
    text, images = _content(last, "vlm" in pipeline.workloads)
    return common._replace(question=Question(text, common.question.seed, images))


def read_completion(body: Mapping[str, Any], pipeline: Pipeline, model: str) -> TextRequest:
    """Read a body of /v1/completions: one prompt, a text, without a chat template."""
    if getattr(pipeline, "chat", False) or "llm" not in pipeline.workloads:
        fix = ", or start it with --set pipeline.chat=false" if hasattr(pipeline, "chat") else ""
        raise BadRequestError(f"this server puts prompts through a chat template: POST /v1/chat/completions{fix}")
    common = _read_common(body, pipeline, model, ("prompt",))
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str) or not prompt:
        raise BadRequestError("give one prompt, a text; send several prompts as several requests", "prompt")
    return common._replace(question=Question(prompt, common.question.seed))


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


def check_fields(body: Mapping[str, Any], known: Sequence[str]) -> None:
    for name in body:
        if name not in known:
            raise BadRequestError(unknown("field", name, known), name, "unknown_parameter")


def _read_common(body: Mapping[str, Any], pipeline: Pipeline, model: str, own: Sequence[str]) -> TextRequest:
    check_fields(body, (*own, *OWN, *NEUTRAL))
    check_model(body, model)
    for name, allowed in NEUTRAL.items():
        if body.get(name) not in allowed:
            raise BadRequestError(f"{name} is {body[name]!r:.80}, which this server's engine does not support; leave it out", name)
    _check_sampling(body, pipeline)
    _check_length(body, pipeline)
    options = body.get("stream_options") or {}
    for name, value in (
        ("stream", body.get("stream")),
        ("stream_options", options.get("include_usage") if isinstance(options, dict) else 0),
    ):
        if value not in (None, True, False) or (isinstance(value, int) and not isinstance(value, bool)):
            raise BadRequestError(f'{name} is invalid; write "stream": true, "stream_options": {{"include_usage": true}}', name)
    return TextRequest(Question("", read_seed(body)), bool(body.get("stream")), bool(options.get("include_usage")))


def _check_sampling(body: Mapping[str, Any], pipeline: Pipeline) -> None:
    """Temperature, top_p and top_k are the pipeline's. Under greedy decoding, top_p and top_k have no effect."""
    sampled = bool(getattr(pipeline, "do_sample", False))
    effective = {"temperature": getattr(pipeline, "temperature", None) if sampled else 0.0}
    if sampled:
        effective |= {name: getattr(pipeline, name, None) for name in ("top_p", "top_k")}
    for name, value in effective.items():
        requested = body.get(name)
        if requested is None or requested == value or (value is None and (name, requested) in (("top_p", 1), ("top_k", -1), ("top_k", 0))):
            continue
        shown = "not set" if value is None else f"{value:g}"
        how = "--set pipeline.do_sample=true " if hasattr(pipeline, "do_sample") and not sampled else ""
        fix = f", or start the server with {how}--set pipeline.{name}={requested}" if hasattr(pipeline, name) else ""
        raise BadRequestError(f"{name} is {requested!r:.80}, but this server has {shown} for all requests; leave it out{fix}", name)


def _check_length(body: Mapping[str, Any], pipeline: Pipeline) -> None:
    """max_tokens may be the pipeline's limit, or more."""
    limit = getattr(pipeline, "max_new_tokens", None)
    for name in ("max_tokens", "max_completion_tokens"):
        requested = body.get(name)
        if requested is None:
            continue
        if not isinstance(requested, int) or isinstance(requested, bool) or requested < 1:
            raise BadRequestError(f"{name} is {requested!r:.80}; give a positive whole number", name)
        if limit is None:
            raise BadRequestError(f"{name} is {requested}, but this server's engine has no such option; leave it out", name)
        if requested < limit:
            fix = f"leave it out, or start the server with --set pipeline.max_new_tokens={requested}"
            raise BadRequestError(f"{name} is {requested}, but this server has a limit of {limit} tokens for all requests; {fix}", name)


def _check_system(text: str, pipeline: Pipeline) -> None:
    effective = getattr(pipeline, "system_prompt", None)
    if text != (effective or ""):
        can = "start the server with it: --set pipeline.system_prompt=.." if hasattr(pipeline, "system_prompt") else "leave it out"
        raise BadRequestError(f"this server's system message is {effective!r} for all requests; {can}", "messages")


def _content(message: Mapping[str, Any], with_images: bool) -> tuple[str, tuple[bytes, ...]]:
    """A message's text and images; several texts are joined by line breaks."""
    content = message.get("content")
    if isinstance(content, str):
        return content, ()
    if not isinstance(content, list) or not all(isinstance(part, Mapping) for part in content):
        raise BadRequestError("a message's content must be a text or a list of parts", "messages")
    texts, images = [], []
    for part in content:
        if part.get("type") == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif part.get("type") == "image_url" and with_images:
            images.append(_image(part.get("image_url")))
        else:
            known = "text and image_url" if with_images else "text"
            raise BadRequestError(f"this server does not support parts of type {part.get('type')!r:.80}; known: {known}", "messages")
    return "\n".join(texts), tuple(images)


def _image(value: Any) -> bytes:
    url = value.get("url") if isinstance(value, Mapping) else value
    if not isinstance(url, str) or (match := re.match(r"data:image/[\w.+-]+;base64,", url)) is None:
        raise BadRequestError("give images as data: URLs, data:image/png;base64,..; this server downloads nothing", "messages")
    try:
        return base64.b64decode(url[match.end() :], validate=True)
    except ValueError as error:
        raise BadRequestError(f"an image's data: URL is not base64: {error}", "messages") from None
