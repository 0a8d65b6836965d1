"""Queries of a language engine, made into its requests: prompts tokenised, options of queries put in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from configs.errors import first_line
from pipelines.base import options_of
from pipelines.models.token_events import TokenEvents
from pipelines.transformers.batching.base import Request
from workloads.records import Query, Sample

LONG = 65_536  # characters: they take 0.1 s to tokenise, during which nobody else may have to wait


class Sampling(Protocol):
    """The options of the pipeline that queries may set for themselves."""

    do_sample: bool
    temperature: float
    top_k: int | None
    top_p: float | None
    max_new_tokens: int


class TextRequests:
    """encode: gives a text's or a conversation's token ids, through the chat template or not. context: largest number of tokens of prompt
    and answer together. add: takes requests, on any thread.

    Long texts are tokenised on a thread of their own, and their requests are added when that is done.
    """

    def __init__(
        self,
        encode: Callable[[str | Sequence[Mapping[str, str]], bool], list[int]],
        events: TokenEvents,
        pipeline: Sampling,
        context: int,
        add: Callable[[Sequence[Request]], None],
    ) -> None:
        self._encode, self._events, self._pipeline, self._context, self._add = encode, events, pipeline, context, add
        self._thread = ThreadPoolExecutor(1, "tokenise")  # which starts with its first text

    def submit(self, samples: Sequence[Sample], queries: Sequence[Query]) -> None:
        requests = []
        for sample, query in zip(samples, queries, strict=True):
            messages = options_of(query).messages
            size = sum(len(m["content"]) for m in messages) if messages else len(sample.prompt)
            if self._events.is_too_long(query.id, size, self._context):
                continue
            if size > LONG:
                self._thread.submit(self._submit_later, sample, query)
            elif (request := self._request(sample, query)) is not None:
                requests.append(request)
        self._add(requests)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _submit_later(self, sample: Sample, query: Query) -> None:
        if (request := self._request(sample, query)) is not None:
            self._add([request])

    def _request(self, sample: Sample, query: Query) -> Request | None:
        """None for a query that is refused."""
        options, own = options_of(query), self._pipeline
        try:
            ids = self._encode(options.messages or sample.prompt, not options.bare)
        except Exception as error:  # a chat template can raise anything; only this query fails
            self._events.refuse(query.id, first_line(error))
            return None
        room = self._events.admit(query.id, len(ids), self._context, options)
        if not room:
            return None
        temperature = options.temperature if options.temperature is not None else own.temperature if own.do_sample else 0.0
        sampling: dict[str, Any] = {}
        if temperature:
            top_k = own.top_k if options.top_k is None else options.top_k
            sampling = {"temperature": temperature, "top_p": options.top_p or own.top_p, "top_k": top_k}
        longest = min(room, own.max_new_tokens, options.max_new_tokens or room)
        seed = query.seed if temperature else None
        return Request(query.id, ids, longest, seed, options.min_new_tokens, options.ignore_eos, **sampling)
