"""Updates of a continuous batching engine, turned into the events of a StreamingPipeline."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from configs.errors import ConfigError
from pipelines.base import Event, Response


@dataclass(frozen=True, slots=True)
class Update:
    """A request's tokens so far, with as many token_times (time.perf_counter). finished: no more will come.

    num_input_tokens: of the prompt, where the engine lays it out; else those given to `admit`. stages: seconds by name. broken_off:
    the engine's word for the end of an answer that is not whole, such as `abort`.
    """

    query_id: int
    tokens: Sequence[int]
    token_times: Sequence[float]
    finished: bool
    error: str | None = None
    num_input_tokens: int | None = None
    stages: Mapping[str, float] = field(default_factory=dict)
    broken_off: str | None = None


class TokenEvents:
    """Turns updates into events. ends: tokens that end an answer. speaks: as in StreamingPipeline."""

    def __init__(self, tokenizer: Any, ends: set[int], speaks: bool) -> None:
        self._tokenizer, self._ends, self._speaks = tokenizer, ends, speaks
        self._begun: set[int] = set()
        self._num_sent: dict[int, int] = {}  # characters in events so far
        self._num_input: dict[int, int] = {}
        self._refused: list[Event] = []

    def admit(self, query_id: int, num_input_tokens: int, context: int) -> int:
        """The number of tokens that the answer may have; 0 for a query that is refused. A query that is admitted must be run."""
        room = context - num_input_tokens
        if room < 1 or not num_input_tokens:
            why = f"the prompt has {num_input_tokens} tokens, the context {context}" if num_input_tokens else "the prompt has no tokens"
            self.refuse(query_id, why, num_input_tokens)
            return 0
        self._num_input[query_id] = num_input_tokens
        return room

    def refuse(self, query_id: int, why: str, num_input_tokens: int = 0) -> None:
        """The query fails without reaching the engine."""
        self._refused.append(Event(query_id, response=Response(error=why, num_input_tokens=num_input_tokens)))

    def refusals(self) -> list[Event]:
        """The queries refused since the last call."""
        refusals, self._refused = self._refused, []
        return refusals

    def events(self, update: Update) -> list[Event]:
        events = []
        text = self._new_text(update) if self._speaks and update.tokens else None
        if update.tokens and update.query_id not in self._begun:
            self._begun.add(update.query_id)
            events.append(Event(update.query_id, first_token_id=int(update.tokens[0]), text=text))
        elif text:
            events.append(Event(update.query_id, text=text))
        if update.finished:
            self._begun.discard(update.query_id)
            events.append(Event(update.query_id, response=self._response(update)))
        return events

    def _new_text(self, update: Update) -> str:
        """The text since the last event. A character that is not complete waits for its other bytes."""
        text, num_sent = self._tokenizer.decode(update.tokens, skip_special_tokens=True), self._num_sent.pop(update.query_id, 0)
        if update.finished:
            return str(text[num_sent:])
        new = "" if text.endswith("\N{REPLACEMENT CHARACTER}") else str(text[num_sent:])
        self._num_sent[update.query_id] = num_sent + len(new)
        return new

    def _response(self, update: Update) -> Response:
        admitted, tokens = self._num_input.pop(update.query_id, 0), update.tokens
        num_input = admitted if update.num_input_tokens is None else update.num_input_tokens
        if update.error is not None or not tokens:
            return Response(error=update.error or "the engine gave no tokens", num_input_tokens=num_input)
        return Response(
            text=self._tokenizer.decode(tokens, skip_special_tokens=True),
            stages=update.stages,
            num_units=len(tokens),
            num_input_tokens=num_input,
            first_token_id=int(tokens[0]),
            token_ids=list(tokens),
            finish_reason=update.broken_off or ("stop" if tokens[-1] in self._ends else "length"),
            token_gap_s=[b - a for a, b in itertools.pairwise(update.token_times)],
        )


def stop_tokens(pipeline: str, texts: Sequence[str], tokenizer: Any, model: str) -> set[int]:
    """The tokens of option `stop`. Raises ConfigError for a text that is not one token."""
    ends = set()
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False)
        if len(ids) != 1:
            raise ConfigError(f"pipeline {pipeline!r}: stop {text!r} is not one token of model {model!r}; give texts that are")
        ends.add(ids[0])
    return ends


def token_set(tokens: int | Sequence[int] | None) -> set[int]:
    """An eos_token_id of a configuration, in any of its forms."""
    return set() if tokens is None else {tokens} if isinstance(tokens, int) else set(tokens)
