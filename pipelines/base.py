"""The plugin interface of pipelines: Pipeline, StreamingPipeline, and the Response they return."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import msgspec

from pipelines.distributed.replica import Replica
from workloads.records import Query, Sample

if TYPE_CHECKING:  # numpy too: the conductor imports this module and has no use for it
    import numpy as np
    import torch
    from numpy.typing import NDArray


class Response(msgspec.Struct, frozen=True):
    """One answer: a video or a text, and how long its stages took.

    video_THWC: uint8. fps: its frame rate. stages: seconds by stage name, of the batch; the stage `after_answer` is not part of the
    answer, whose latency ends before it. step_s: seconds of each denoising
    step. num_units: frames, or tokens of the answer; 0 where the suite is to count the video's frames or the token_ids.
    num_input_tokens: tokens of the prompt, images included. thoughts: what was generated beside the text and counts as tokens.
    first_token_id: for checks that two runs give the same answer. token_ids: all of the answer's, end token included, where the engine
    reports them; compliance tests count them. finish_reason: `stop` at an end token, `length` where it was cut off; `abort`, `error` and
    `content_filter` fail the query, and the report shows other words. token_gap_s:
    seconds between one token and the next, num_units - 1 of them, where the engine reports them.
    finite: False where the pipeline's own numbers contained NaN or infinity. client_lag_s: of a client of servers: as in Record.
    error: why there is no answer; the query then counts as failed.

    Every Response is checked where it enters (pipelines/models/response_check.py); one that cannot be used counts as failed.
    """

    video_THWC: NDArray[np.uint8] | None = None
    fps: float = 8.0
    text: str | None = None
    thoughts: str = ""
    stages: Mapping[str, float] = {}
    step_s: Sequence[float] = ()
    num_units: int = 0
    num_input_tokens: int = 0
    first_token_id: int | None = None
    token_ids: Sequence[int] = ()
    finish_reason: str | None = None
    token_gap_s: Sequence[float] = ()
    finite: bool = True
    client_lag_s: float | None = None
    error: str | None = None


class QueryOptions(msgspec.Struct, frozen=True):
    """What one query sets for itself. None, and no messages: as the pipeline's own options say.

    max_new_tokens: below the pipeline's own. min_new_tokens: no end token and no text of `stop` ends the answer before. ignore_eos: end
    tokens do not end the answer. temperature: 0 takes the likeliest token. top_k: 0 for no limit. stop: texts that end the answer, which
    does not contain them. messages: the whole conversation, with `role` and `content`, in place of the sample's prompt; without a system
    message it gets the pipeline's system_prompt. bare: no chat template.
    """

    max_new_tokens: int | None = None
    min_new_tokens: int = 0
    ignore_eos: bool = False
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: tuple[str, ...] = ()
    messages: tuple[Mapping[str, str], ...] = ()
    bare: bool = False


NO_OPTIONS = QueryOptions()


class ServedQuery(Query, frozen=True, array_like=True, gc=False):
    """A query of a client of `suite.py serve`, with options of its own."""

    options: QueryOptions = NO_OPTIONS


def options_of(query: Query) -> QueryOptions:
    return query.options if isinstance(query, ServedQuery) else NO_OPTIONS


class Pipeline(ABC):
    """A model and the way it is run. Subclasses are dataclasses; their fields are the options under `pipeline:`.

    batch_size: how many queries `generate` is given at most.
    workload: the one it is to answer, set before `load`; needed where it can answer several.
    replica: the ranks that hold this model together, set before `load`. Each of them is given the same batches; the answers
    of its first rank count, the others may give none.
    repeats: when the same query and seed get the same answer again: `alone`, the default; `in_batch`, only in the batch that they were
    in, as where a cache decides for whole batches; `never`, as with a server that samples without seeds.
    rests: False for an engine whose threads keep a CPU busy while they wait for work.
    takes_options: set before `load` by a caller whose queries are ServedQueries.
    What a pipeline declares instead of these defaults is not checked, and the report says so.
    """

    workloads: ClassVar[tuple[str, ...]]  # the workloads it can answer
    parallelism: ClassVar[tuple[str, ...]] = ()  # the options under `parallel:` it can put to use: tensor, context, cfg
    batch_size: int = 1
    workload: str = ""
    replica: Replica = Replica()
    repeats: Literal["alone", "in_batch", "never"] = "alone"
    rests: bool = True
    takes_options: bool = False

    @abstractmethod
    def load(self, device: torch.device) -> None:
        """Load the model onto the device. Raises ConfigError where an option or a checkpoint cannot be used."""

    @abstractmethod
    def generate(self, samples: Sequence[Sample], queries: Sequence[Query]) -> Sequence[Response]:
        """Answer one batch, in order: samples[i] is the sample of queries[i].

        The same sample and seed give the same answer. The device must be idle on return.
        """

    def effective(self) -> Mapping[str, str]:
        """The effective settings after `load`, by name: dtype, attention, quantisation, cache and the like."""
        return {}

    def fallbacks(self) -> Sequence[str]:
        """Options that were requested and are not effective, one sentence each. A run with any is INVALID."""
        return ()

    def query_options(self) -> frozenset[str]:
        """The fields of QueryOptions that a query may set, once the pipeline is loaded. The server refuses requests that need others."""
        return frozenset()

    def own_tokenizer(self) -> Any:
        """The model's tokenizer, with transformers' interface, once the pipeline is loaded; None without one."""
        return None

    def count_tokens(self, text: str) -> int | None:
        """Tokens of an answer's text by the model's tokenizer, which checks num_units where there are no token_ids; None without one."""
        return None

    def close(self) -> None:  # noqa: B027  (most have nothing to release)
        """Release threads and processes; called once, after the last test."""


class Event(msgspec.Struct, frozen=True, gc=False):
    """What happened to one query: its first token is there or, where there is a response, it is finished.

    text: what the answer has grown by, where the pipeline's `speaks` is set. at: of the pipeline `endpoint`: when (time.perf_counter)
    the bytes of the first token arrived. LoadGen counts it when the event comes, and a run in which that makes a difference is INVALID.
    """

    query_id: int
    first_token_id: int | None = None
    text: str | None = None
    response: Response | None = None
    at: float | None = None


class StreamingPipeline(Pipeline):
    """An engine with a queue of its own, such as continuous batching: queries join and leave while others run.

    batch_size: how many queries it is given at the same time at most.
    In a replica of several ranks only the first is given queries; the engine passes them on to the others.
    speaks: set before `load` by a caller that forwards answers while they are generated: events then carry every piece of text, where
    the engine has them one by one. Responses hold the whole text all the same.
    """

    speaks: bool = False

    @abstractmethod
    def submit(self, samples: Sequence[Sample], queries: Sequence[Query]) -> None:
        """Take the queries into the queue and return at once: samples[i] is the sample of queries[i].

        A query that cannot be answered, such as one longer than the context, is not an error here: `step` reports it in its
        Response. Raises where the engine is broken.
        """

    @abstractmethod
    def step(self, timeout_s: float) -> Sequence[Event]:
        """What has happened since the last call; waits up to `timeout_s` for the first event. Raises where the engine is broken."""

    def watch(self, descriptor: int | None) -> None:
        """Have `step` return early when this file descriptor becomes readable: there may be new queries. None: no longer."""

    def cancel(self, query_id: int) -> bool:
        """Give up a query: it computes no more and has no further events. False where the engine cannot; the query then runs to its end."""
        return False

    def generate(self, samples: Sequence[Sample], queries: Sequence[Query]) -> Sequence[Response]:
        self.submit(samples, queries)
        answers: dict[int, Response] = {}
        while len(answers) < len(queries):
            answers |= {event.query_id: event.response for event in self.step(1.0) if event.response is not None}
        return [answers[query.id] for query in queries]
