"""Updates of a continuous batching engine, turned into the events of a StreamingPipeline."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from configs.errors import ConfigError
from pipelines.base import NO_OPTIONS, Event, QueryOptions, Response


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


@dataclass(slots=True)
class _Answer:
    """num_sent: characters in events so far. searched: characters of the text in which no text of `stop` counts."""

    num_input_tokens: int
    options: QueryOptions
    begun: bool = False
    num_sent: int = 0
    searched: int = 0


class TokenEvents:
    """Turns updates into events. ends: tokens that end an answer. speaks: as in StreamingPipeline."""

    def __init__(self, tokenizer: Any, ends: set[int], speaks: bool) -> None:
        self._tokenizer, self._ends, self._speaks = tokenizer, ends, speaks
        self._answers: dict[int, _Answer] = {}
        self._refused: list[Event] = []
        self._stopped: list[int] = []
        self._longest: int | None = None

    def admit(self, query_id: int, num_input_tokens: int, context: int, options: QueryOptions = NO_OPTIONS) -> int:
        """The number of tokens that the answer may have; 0 for a query that is refused. A query that is admitted must be run."""
        room = context - num_input_tokens
        if room < 1 or not num_input_tokens:
            why = f"the prompt has {num_input_tokens} tokens, the context {context}" if num_input_tokens else "the prompt has no tokens"
            self.refuse(query_id, why, num_input_tokens)
            return 0
        self._answers[query_id] = _Answer(num_input_tokens, options)
        return room

    def refuse(self, query_id: int, why: str, num_input_tokens: int = 0) -> None:
        """The query fails without reaching the engine."""
        self._refused.append(Event(query_id, response=Response(error=why, num_input_tokens=num_input_tokens)))

    def is_too_long(self, query_id: int, num_characters: int, context: int) -> bool:
        """Whether a text cannot fit into the context even if its every token is the vocabulary's longest; the query is then refused.

        10 MB take 16 s to tokenise. Normalisation may shorten a text before: NFC makes at most 3 characters into one.
        """
        if num_characters <= context:  # no token is shorter
            return False
        if self._longest is None:
            self._longest = 3 * max(map(len, self._tokenizer.get_vocab()))
        if num_characters <= context * self._longest:
            return False
        self.refuse(query_id, f"the prompt has {num_characters} characters, which no {context} tokens of the context can hold")
        return True

    def refusals(self) -> list[Event]:
        """The queries refused since the last call."""
        refusals, self._refused = self._refused, []
        return refusals

    def stopped(self) -> list[int]:
        """The queries that a text of `stop` ended since the last call; the engine still runs them."""
        stopped, self._stopped = self._stopped, []
        return stopped

    def forget(self, query_id: int) -> bool:
        """Ignore all further updates of a query. False where it is not known, or has ended."""
        return self._answers.pop(query_id, None) is not None

    def events(self, update: Update) -> list[Event]:
        """The events of an update; none for a query that has ended or was forgotten."""
        if (answer := self._answers.get(update.query_id)) is None:
            return []
        events, stopped_at, text = [], None, None
        if self._speaks and update.tokens:
            whole = self._tokenizer.decode(update.tokens, skip_special_tokens=True)
            stopped_at = _stop_at(whole, answer, len(update.tokens))
            text = _new_text(whole[:stopped_at], answer, update.finished or stopped_at is not None)
        if update.tokens and not answer.begun:
            answer.begun = True
            events.append(Event(update.query_id, first_token_id=int(update.tokens[0]), text=text))
        elif text:
            events.append(Event(update.query_id, text=text))
        if update.finished or stopped_at is not None:
            del self._answers[update.query_id]
            events.append(Event(update.query_id, response=self._response(update, answer, stopped_at)))
        if not update.finished and stopped_at is not None:
            self._stopped.append(update.query_id)
        return events

    def _response(self, update: Update, answer: _Answer, stopped_at: int | None) -> Response:
        tokens = update.tokens
        num_input = answer.num_input_tokens if update.num_input_tokens is None else update.num_input_tokens
        if update.error is not None or not tokens:
            return Response(error=update.error or "the engine gave no tokens", num_input_tokens=num_input)
        ended = stopped_at is not None or (tokens[-1] in self._ends and not answer.options.ignore_eos)
        return Response(
            text=self._tokenizer.decode(tokens, skip_special_tokens=True)[:stopped_at],
            stages=update.stages,
            num_units=len(tokens),
            num_input_tokens=num_input,
            first_token_id=int(tokens[0]),
            token_ids=list(tokens),
            finish_reason=update.broken_off or ("stop" if ended else "length"),
            token_gap_s=[b - a for a, b in itertools.pairwise(update.token_times)],
        )


def _stop_at(text: str, answer: _Answer, num_tokens: int) -> int | None:
    """Where the first text of `stop` begins; None where there is none yet."""
    if num_tokens <= answer.options.min_new_tokens:
        answer.searched = len(text)
        return None
    found = [place for stop in answer.options.stop if (place := text.find(stop, answer.searched)) >= 0]
    return min(found, default=None)


def _new_text(text: str, answer: _Answer, ends: bool) -> str:
    """The text since the last event. What may begin a text of `stop` waits, and so does a character without all its bytes."""
    if not ends:
        if text.endswith("\N{REPLACEMENT CHARACTER}"):
            return ""
        text = text[: len(text) - max((_overlap(text, stop) for stop in answer.options.stop), default=0)]
    new = text[answer.num_sent :]
    answer.num_sent += len(new)
    return new


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of the text that are the beginning of `stop`."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)


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
