"""A weightless language engine: solves the embedded world's tasks by program, token by token at a given pace. For tests."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from configs.registry import register
from pipelines.base import Event, Response, StreamingPipeline, options_of
from workloads.records import Query, Sample
from workloads.world.language import backwards_answer, count_answer, find_answer, motion_answer, number_answer, summary_answer
from workloads.world.scenes import SHAPES, Group, parse_caption

if TYPE_CHECKING:
    import torch


@register("toy_llm")
@dataclass
class ToyLLM(StreamingPipeline):
    """error_rate: share of answers, chosen by the query's seed, that are wrong. prefill_s, token_s: seconds to the first
    token of a running query, token_s at least, and from each token to the next; all running queries advance at that pace.
    batch_size: queries that run at the same time.
    """

    batch_size: int = 8
    error_rate: float = 0.0
    prefill_s: float = 0.0
    token_s: float = 0.0
    _running: list[_Running] = field(default_factory=list, init=False, repr=False)

    workloads: ClassVar[tuple[str, ...]] = ("llm",)

    def load(self, device: torch.device) -> None:
        """There is nothing to load."""

    def submit(self, samples: Sequence[Sample], queries: Sequence[Query]) -> None:
        for sample, query in zip(samples, queries, strict=True):
            text = "unsure" if np.random.default_rng(query.seed).random() < self.error_rate else solve(sample.prompt)
            words, limit = _words(text), options_of(query).max_new_tokens
            is_cut = limit is not None and len(words) >= limit
            first_due = time.perf_counter() + max(self.prefill_s, self.token_s)
            self._running.append(_Running(query.id, len(sample.prompt.split()), "".join(words[:limit]), first_due, is_cut))

    def cancel(self, query_id: int) -> bool:
        self._running = [one for one in self._running if one.query_id != query_id]
        return True

    def query_options(self) -> frozenset[str]:
        return frozenset({"max_new_tokens"})

    def step(self, timeout_s: float) -> Sequence[Event]:
        events: list[Event] = []
        give_up = time.perf_counter() + timeout_s
        while not events and self._running:
            now = time.perf_counter()
            for one in [*self._running]:
                if not one.begun and now >= one.first_due:
                    one.begun = True
                    events.append(Event(one.query_id, first_token_id=1))
                if one.begun and self.speaks and (text := one.new_text(now, self.token_s)):
                    events.append(Event(one.query_id, text=text))
                if one.begun and now >= one.first_due + self.token_s * (one.num_tokens - 1):
                    self._running.remove(one)
                    events.append(Event(one.query_id, response=one.response(self.token_s)))
            if now > give_up:
                break
            if not events:
                time.sleep(min(0.0005, timeout_s))
        return events


@dataclass
class _Running:
    query_id: int
    num_input_tokens: int
    text: str
    first_due: float
    is_cut: bool  # by the query's own limit, which leaves no end token
    begun: bool = False
    num_sent: int = 0  # words in events so far

    @property
    def num_tokens(self) -> int:
        return len(_words(self.text)) + (not self.is_cut)  # words, and an end token

    def new_text(self, now: float, token_s: float) -> str:
        """The words that are due and were not sent yet, with the spaces behind them."""
        words = _words(self.text)
        due = min(len(words), 1 + int((now - self.first_due) / token_s) if token_s else len(words))
        num_sent, self.num_sent = self.num_sent, due
        return "".join(words[num_sent:due])

    def response(self, token_s: float) -> Response:
        return Response(
            text=self.text,
            num_units=self.num_tokens,
            num_input_tokens=self.num_input_tokens,
            first_token_id=1,
            token_ids=[*range(1, self.num_tokens), self.num_tokens if self.is_cut else 0],
            finish_reason="length" if self.is_cut else "stop",
            token_gap_s=[token_s] * (self.num_tokens - 1),
        )


def _words(text: str) -> list[str]:
    """With the spaces behind them."""
    return re.findall(r"\S+\s*", text)


def solve(prompt: str) -> str:
    """The answer to a prompt of `workloads.world.language`, from its words alone; `unsure` for any other prompt."""
    *sentences, question = re.split(r"(?<=\.) (?=[a-z])", prompt)
    if re.match(r"repeat|say that again", question):
        return " ".join(sentences)
    if re.search(r"backwards|last to first", question):
        return backwards_answer(" ".join(sentences))
    if numbers := re.fullmatch(r".*count\w* (?:up|down) from (\d+) to (\d+)(?: in steps of (\d+))?\.", question):
        first, last, step = (int(n or 1) for n in numbers.groups())
        return count_answer(range(first, last + 1, step) if last > first else range(first, last - 1, -step))
    try:
        groups = [parse_caption(s).groups[0] for s in sentences]
    except ValueError:
        return "unsure"
    for pattern, answer in _ANSWERS.items():
        if match := re.search(pattern, question):
            try:
                return answer(groups, *match.groups())
            except StopIteration:  # it asks for what is not there
                return "unsure"
    return "unsure"


def _of_colour(groups: Sequence[Group], colour: str) -> Group:
    return next(g for g in groups if g.colour == colour)


def _of_shape(groups: Sequence[Group], shape: str) -> Group:
    return next(g for g in groups if g.shape == shape)


def _doing(groups: Sequence[Group], words: str) -> str:
    return next(answer for answer in map(find_answer, groups) if answer.endswith(f" {words}."))


_ANSWERS: dict[str, Callable[..., str]] = {
    r"shape .* the (\w+) object": lambda groups, colour: f"the {colour} object is a {_of_colour(groups, colour).shape}.",
    rf"colour .* the ({'|'.join(SHAPES)})": lambda groups, shape: f"the {shape} is {_of_shape(groups, shape).colour}.",
    r"does the (\w+) object (?:move|do)": lambda groups, colour: motion_answer(_of_colour(groups, colour)),
    r"object (?:that )?((?:moves|stays) .*)[.?]": _doing,
    r"objects (?:that )?are (\w+)": lambda groups, kind: number_answer(groups, kind),
    r"one a line|numbered list": lambda groups: "\n".join(f"{i}. {g.colour} {g.shape}" for i, g in enumerate(groups, 1)),
    r"JSON": lambda groups: json.dumps(
        [{"colour": g.colour, "shape": g.shape, "direction": g.direction, "speed": g.speed} for g in groups]
    ),
    r"summar": lambda groups: summary_answer(groups),
}
