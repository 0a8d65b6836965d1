"""Messages between conductor and workers: msgspec structs as MessagePack over ZeroMQ, never pickle.

Worker to conductor: Hello, Ready, First, Done, Replayed, Beat, Power, Bye, Failed. Conductor to worker: Work, Replay, Stop; to its
heartbeat: Beat, Stop.
One message carries all that is there at the time: never one for each token, and under load not one for each query.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from configs.decode import reading
from configs.errors import RunError
from workloads.records import Query, Status
from workloads.run_folder.power_log import MeterFacts, PowerSample


class Hello(msgspec.Struct, tag=True, frozen=True):
    """A worker is connected; its model is not loaded yet. host: for messages about its end."""

    rank: int
    host: str


class Address(msgspec.Struct, frozen=True):
    """Where the conductor listens. Across nodes with keys of CURVE: the conductor's public one, and a pair for all workers.

    Keys are distributed through the process group; a connection without them is refused.
    """

    url: str
    conductor_key: str = ""
    worker_public_key: str = ""
    worker_secret_key: str = ""


class Ready(msgspec.Struct, tag=True, frozen=True):
    """The model is loaded and warm. sample_s: seconds a sample took in the last warm-up batch."""

    rank: int
    batch_size: int
    sample_s: float
    device: str
    effective: dict[str, str]
    fallbacks: list[str]
    streams: bool = False  # the pipeline is a StreamingPipeline
    repeats: str = "alone"  # as in `Pipeline`
    rests: bool = True
    requested: dict[str, Any] = {}  # defaults of the options in pipelines/launcher/worker/inspection.py
    inspection: dict[str, Any] = {}  # of the model and the packages; `found` in outcome.json


class Result(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One query's answer, without the answer itself. Fields as in `Record`.

    tokens: the ids of its tokens where the engine reports them, four bytes each, as LoadGen logs them.
    """

    query_id: int
    status: Status
    stages: dict[str, float] = {}
    step_s: list[float] = []
    num_units: int = 0
    num_input_tokens: int = 0
    first_token_id: int | None = None
    finish_reason: str | None = None
    token_gap_s: list[float] = []
    digest: str = ""
    media: str | None = None
    text: str | None = None
    finite: bool = True
    error: str | None = None
    worked: tuple[float, float] | None = None  # on the conductor's clock, as the worker estimates it
    tokens: bytes = b""
    client_lag_s: float | None = None


FirstToken = tuple[int, int, float | None]  # query id, token id and, where the pipeline noted it, the time on the conductor's clock


class First(msgspec.Struct, tag=True, frozen=True):
    """First tokens of queries."""

    rank: int
    tokens: list[FirstToken]


class Done(msgspec.Struct, tag=True, frozen=True):
    """These queries are answered. tokens: as in First, of those whose first token and end came in one step."""

    rank: int
    results: list[Result]
    tokens: list[FirstToken] = []


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """One answer of a replay, as it goes into outcome.json.

    kind: `again` (a timed query once more), `fresh` (a new prompt or seed with the same amount of work), `warm-up` (from before the
    clock started); `again-together` and `fresh-together` are several at the same time, whose units and seconds are those of all.
    query_id, timed_rank: of the timed query, and who answered it; -1 for a warm-up. answer_s: how long it took.
    busy_s: how long device and CPUs were busy after it, None where that was not measured. announced, first_token_s: the first token's
    id in the event before the answer, and how long after the query it came. prompt: of a fresh query with another one.
    """

    kind: Literal["again", "fresh", "warm-up", "again-together", "fresh-together"]
    rank: int
    query_id: int
    sample_index: int
    seed: int
    timed_rank: int = -1
    answer_s: float | None = None
    busy_s: float | None = None
    num_units: int = 0
    num_steps: int = 0
    announced: int | None = None
    first_token_id: int | None = None
    digest: str = ""
    media: str | None = None
    text: str | None = None
    error: str | None = None
    prompt: str | None = None
    first_token_s: float | None = None
    finish_reason: str | None = None
    finite: bool = True
    token_gap_s: list[float] = []


class Replayed(msgspec.Struct, tag=True, frozen=True):
    """Answers of a replay. over: there are no more. backlog_s: how long this rank was still busy after the clock had stopped."""

    rank: int
    answers: list[Answer]
    over: bool = False
    backlog_s: float | None = None


class Beat(msgspec.Struct, tag=True, frozen=True):
    """A heartbeat of this rank or, from the conductor, of the conductor.

    sent: on the worker's clock; the conductor sends it back at once with `at`, on its own. See pipelines/launcher/worker/clock_sync.py.
    """

    rank: int
    sent: float = 0.0
    at: float = 0.0


class Power(msgspec.Struct, tag=True, frozen=True):
    """Samples of this rank's device since the last message of this kind. facts: in the first one, how it is measured."""

    rank: int
    samples: list[PowerSample]
    facts: MeterFacts | None = None


class Bye(msgspec.Struct, tag=True, frozen=True):
    """All media are on disk, but for the `unwritten`, by name with the cause, and the worker leaves. memory: `host` and, on a GPU, `device`
    peak bytes.

    signal: the one that ends it before a Stop, such as SIGTERM. clock_offset_s, clock_error_s: of its clock against the
    conductor's, and how far off that may be. counted: answers by what their num_units was held against (ResponseCheck.counted_by).
    """

    rank: int
    memory: dict[str, int]
    error: str | None = None
    signal: str | None = None
    clock_offset_s: float | None = None
    clock_error_s: float | None = None
    effective: dict[str, str] = {}  # as in Ready, now that the test is over
    inspection: dict[str, Any] = {}
    unwritten: dict[str, str] = {}
    counted: dict[str, int] = {}


class Failed(msgspec.Struct, tag=True, frozen=True):
    """The worker could not get ready, or cannot go on."""

    rank: int
    error: str


class Work(msgspec.Struct, tag=True, frozen=True):
    """Queries to answer, as one batch where the pipeline works in batches."""

    queries: list[Query]


class Again(msgspec.Struct, frozen=True):
    """A timed query to answer once more. rank, digest: of its timed answer. batch: the whole batch that it was answered in, in order,
    where it has to be in the same batch again.
    """

    query: Query
    rank: int
    digest: str
    batch: list[Query] = []


class Replay(msgspec.Struct, tag=True, frozen=True):
    """The clock has stopped; answer these again, one at a time.

    next_id: the first free query number. max_s: no further one is started after so many seconds.
    """

    queries: list[Again]
    next_id: int
    max_s: float


class Stop(msgspec.Struct, tag=True, frozen=True):
    """No more queries will come. why: the cause, where the run was given up."""

    reason: Literal["finished", "aborted"]
    why: str = ""


FromWorker = Hello | Ready | First | Done | Replayed | Beat | Power | Bye | Failed
FromConductor = Work | Replay | Stop

encode = msgspec.msgpack.Encoder().encode


def _decoder(kind: Any) -> Callable[[bytes], Any]:
    decode = msgspec.msgpack.Decoder(kind).decode

    def decoded(message: bytes) -> Any:
        """Raises RunError where it is no message of that kind."""
        with reading("a message between ranks", "all of them must run the same version of the suite", RunError):
            return decode(message)

    return decoded


decode_from_worker = _decoder(FromWorker)
decode_from_conductor = _decoder(FromConductor)
decode_for_heartbeat = _decoder(Beat | Stop)
