"""Bodies of chats and completions. A field that no engine here supports is refused, unless its value has no effect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import msgspec

from pipelines.base import Pipeline, QueryOptions
from pipelines.serving.bodies.conversation import Conversation, read_conversation
from pipelines.serving.bodies.fields import check_model, read_seed, unknown_fields
from pipelines.serving.bodies.options import FIELDS, read_options
from pipelines.serving.engine import Question
from pipelines.serving.errors import BadRequestError
from workloads.records import query_seed

MOST_ANSWERS = 128  # to one request, as OpenAI's n
# Fields that no pipeline supports, with the values that have no effect.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "best_of": (None, 1),
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
    "min_p": (None, 0),
    "store": (None, False),
    "use_beam_search": (None, False),
    "stop_token_ids": (None, []),
    "skip_special_tokens": (None, True),
}
OWN = ("model", "stream", "stream_options", "seed", "n", "user", "metadata", *FIELDS)


class TextRequest(NamedTuple):
    """questions: as many as answers are requested. include_usage: send usage as a separate chunk at the end of a stream."""

    questions: tuple[Question, ...]
    stream: bool
    include_usage: bool
    warnings: list[str]

    def ask(self, prompt: str, images: tuple[bytes, ...] = (), **options: Any) -> TextRequest:
        """The request with its prompt."""
        questions = (
            replace(q, prompt=prompt, images=images, options=msgspec.structs.replace(q.options, **options)) for q in self.questions
        )
        return self._replace(questions=tuple(questions))


def read_chat(body: Mapping[str, Any], pipeline: Pipeline, model: str) -> TextRequest:
    """Read a body of /v1/chat/completions."""
    if getattr(pipeline, "chat", True) is False:
        raise BadRequestError("this server takes bare prompts: POST /v1/completions, or start it with --set pipeline.chat=true")
    common = _read_common(body, pipeline, model, ("messages",))
    conversation = read_conversation(body.get("messages"), "vlm" in pipeline.workloads)
    prompt = conversation.messages[-1]["content"]
    if conversation.is_one_prompt and _is_own_system(conversation, pipeline):
        return common.ask(prompt, conversation.images)
    if "messages" not in pipeline.query_options():
        _refuse_conversation(conversation, pipeline)
    return common.ask(prompt, conversation.images, messages=conversation.messages)


def read_completion(body: Mapping[str, Any], pipeline: Pipeline, model: str) -> TextRequest:
    """Read a body of /v1/completions: one prompt, a text, without a chat template."""
    bare = not getattr(pipeline, "chat", True) or not hasattr(pipeline, "chat")
    if "llm" not in pipeline.workloads or not (bare or "bare" in pipeline.query_options()):
        fix = ", or start it with --set pipeline.chat=false" if hasattr(pipeline, "chat") else ""
        raise BadRequestError(f"this server puts prompts through a chat template: POST /v1/chat/completions{fix}")
    common = _read_common(body, pipeline, model, ("prompt",))
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str) or not prompt:
        raise BadRequestError("give one prompt, a text; send several prompts as several requests", "prompt")
    return common.ask(prompt) if bare else common.ask(prompt, bare=True)


def _read_common(body: Mapping[str, Any], pipeline: Pipeline, model: str, own: Sequence[str]) -> TextRequest:
    warnings = unknown_fields(body, (*own, *OWN, *NEUTRAL))
    check_model(body, model)
    for name, allowed in NEUTRAL.items():
        if body.get(name) not in allowed:
            raise BadRequestError(f"{name} is {body[name]!r:.80}, which this server's engine does not support; leave it out", name)
    stream = body.get("stream_options")
    stream_options: Mapping[str, Any] = stream if isinstance(stream, dict) else {}
    fields = (
        ("stream", body.get("stream")),
        ("stream_options", stream_options.get("include_usage") if stream_options or not stream else 0),
    )
    for name, value in fields:
        if value not in (None, True, False) or (isinstance(value, int) and not isinstance(value, bool)):
            raise BadRequestError(f'{name} is invalid; write "stream": true, "stream_options": {{"include_usage": true}}', name)
    warnings += unknown_fields(stream_options, ("include_usage",))
    options, more = read_options(body, pipeline)
    return TextRequest(_questions(body, options), bool(body.get("stream")), bool(stream_options.get("include_usage")), [*warnings, *more])


def _questions(body: Mapping[str, Any], options: QueryOptions) -> tuple[Question, ...]:
    """As many as `n` requests; the first has the request's seed, each of the others one that follows from it."""
    n, seed = body.get("n"), read_seed(body)
    if n is not None and (not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= MOST_ANSWERS):
        raise BadRequestError(f"n is {n!r:.80}; give a whole number from 1 to {MOST_ANSWERS}", "n")
    return tuple(Question("", query_seed(seed, i) if i else seed, options=options) for i in range(n or 1))


def _is_own_system(conversation: Conversation, pipeline: Pipeline) -> bool:
    return conversation.system is None or conversation.system == (getattr(pipeline, "system_prompt", None) or "")


def _refuse_conversation(conversation: Conversation, pipeline: Pipeline) -> None:
    if not conversation.is_one_prompt:
        raise BadRequestError(
            "this server's engine answers one prompt, not a conversation: give one user message, after one system message at most",
            "messages",
        )
    effective = getattr(pipeline, "system_prompt", None)
    can = "start the server with it: --set pipeline.system_prompt=.." if hasattr(pipeline, "system_prompt") else "leave it out"
    raise BadRequestError(f"this server's system message is {effective!r} for all requests; {can}", "messages")
