"""A plugin file of language pipelines, each of which saves work that it claims to do. Where `sabotage` is false they have no fault."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from configs.registry import register
from pipelines.base import Event, Response
from pipelines.toy.llm import ToyLLM
from workloads.records import Query, Sample


@register("returns_references")
@dataclass
class ReturnsReferences(ToyLLM):
    """Answers with the reference that metrics score by."""

    sabotage: bool = True

    def submit(self, samples: Sequence[Sample], queries: Sequence[Query]) -> None:
        super().submit(samples, queries)
        for sample, one in zip(samples, self._running[-len(samples) :], strict=True):
            one.text = str(sample.meta["answer"]) if self.sabotage else one.text


@register("caches_bags_of_words")
@dataclass
class CachesBagsOfWords(ToyLLM):
    """A prompt is answered at once where one with the same words was answered, in whatever order."""

    sabotage: bool = True
    _known: set[tuple[str, ...]] = field(default_factory=set, init=False, repr=False)

    def submit(self, samples: Sequence[Sample], queries: Sequence[Query]) -> None:
        super().submit(samples, queries)
        for sample, one in zip(samples, self._running[-len(samples) :], strict=True):
            bag = tuple(sorted(sample.prompt.split()))
            if self.sabotage and bag in self._known:
                one.first_due = 0.0
            self._known.add(bag)


@register("caches_when_busy")
@dataclass
class CachesWhenBusy(ToyLLM):
    """A cache that is used while other queries run, which no single replay sees."""

    sabotage: bool = True
    _known: set[str] = field(default_factory=set, init=False, repr=False)

    def submit(self, samples: Sequence[Sample], queries: Sequence[Query]) -> None:
        super().submit(samples, queries)
        for sample, one in zip(samples, self._running[-len(samples) :], strict=True):
            if self.sabotage and sample.prompt in self._known and len(self._running) > 1:
                one.first_due = 0.0
            self._known.add(sample.prompt)


@register("announces_at_once")
@dataclass
class AnnouncesAtOnce(ToyLLM):
    """Announces the right first token when it is given a query. way: its gaps are those after it, or hide the prefill in the first one."""

    sabotage: bool = True
    way: Literal["plain", "hides"] = "plain"
    _announced: list[Event] = field(default_factory=list, init=False, repr=False)

    def submit(self, samples: Sequence[Sample], queries: Sequence[Query]) -> None:
        super().submit(samples, queries)
        if self.sabotage:
            self._announced += [Event(q.id, first_token_id=1) for q in queries]
            for one in self._running[-len(queries) :]:
                one.begun = True

    def step(self, timeout_s: float) -> Sequence[Event]:
        announced, self._announced = self._announced, []
        return announced or [self._with_gaps(event) for event in super().step(timeout_s)]

    def _with_gaps(self, event: Event) -> Event:
        response = event.response
        if response is None or not self.sabotage or self.way == "plain" or not response.token_gap_s:
            return event
        gaps = [response.token_gap_s[0] + self.prefill_s, *response.token_gap_s[1:]]
        return Event(event.query_id, response=msgspec.structs.replace(response, token_gap_s=gaps))


@register("cuts_when_busy")
@dataclass
class CutsWhenBusy(ToyLLM):
    """Where other queries run, an answer ends after half of its words."""

    sabotage: bool = True

    def submit(self, samples: Sequence[Sample], queries: Sequence[Query]) -> None:
        super().submit(samples, queries)
        for one in self._running[-len(samples) :] if self.sabotage and len(self._running) > 1 else ():
            words = one.text.split(" ")
            one.text = " ".join(words[: -(-len(words) // 2)])


@register("one_long_text")
@dataclass
class OneLongText(ToyLLM):
    """One long text for all prompts, with a word that the seed draws."""

    sabotage: bool = True

    def submit(self, samples: Sequence[Sample], queries: Sequence[Query]) -> None:
        super().submit(samples, queries)
        for query, one in zip(queries, self._running[-len(samples) :], strict=True):
            if self.sabotage:
                one.text = " ".join(f"word{i}" for i in range(50)).replace("word7 ", f"word{query.seed} ")


@register("answers_once")
@dataclass
class AnswersOnce(ToyLLM):
    """A prompt that was answered before gets an empty text."""

    sabotage: bool = True
    _known: set[str] = field(default_factory=set, init=False, repr=False)
    _put_off: list[Event] = field(default_factory=list, init=False, repr=False)

    def submit(self, samples: Sequence[Sample], queries: Sequence[Query]) -> None:
        for sample, query in zip(samples, queries, strict=True):
            if self.sabotage and sample.prompt in self._known:
                self._put_off.append(Event(query.id, response=Response(text="", num_units=1, first_token_id=0, finish_reason="stop")))
            else:
                super().submit([sample], [query])
            self._known.add(sample.prompt)

    def step(self, timeout_s: float) -> Sequence[Event]:
        put_off, self._put_off = self._put_off, []
        return put_off or super().step(timeout_s)
