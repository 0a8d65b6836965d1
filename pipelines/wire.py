"""What conductor and workers say to each other: msgspec structs as MessagePack over ZeroMQ, never pickle.

Worker to conductor: Ready, Want, First, Done, Beat, Bye, Failed. Conductor to worker: Work, Stop.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from workloads.records import Query, Status


class Ready(msgspec.Struct, tag=True, frozen=True):
    """The model is loaded and warm. sample_s: seconds a sample took in the last warm-up batch."""

    rank: int
    batch_size: int
    sample_s: float
    device: str
    effective: dict[str, str]
    fallbacks: list[str]
    streams: bool = False  # the pipeline is a StreamingPipeline


class Want(msgspec.Struct, tag=True, frozen=True):
    """Room for `count` more queries."""

    rank: int
    count: int


class Result(msgspec.Struct, frozen=True, omit_defaults=True):
    """One query's answer, without the answer itself. Fields as in `Record`."""

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


class First(msgspec.Struct, tag=True, frozen=True):
    """These queries' first tokens are there: (query id, token id) each."""

    rank: int
    tokens: list[tuple[int, int]]


class Done(msgspec.Struct, tag=True, frozen=True):
    """These queries are answered."""

    rank: int
    results: list[Result]


class Beat(msgspec.Struct, tag=True, frozen=True):
    """The process is alive."""

    rank: int


class Bye(msgspec.Struct, tag=True, frozen=True):
    """All media are on disk and the worker is leaving. memory: `host` and, on a GPU, `device` peak bytes."""

    rank: int
    memory: dict[str, int]
    error: str | None = None


class Failed(msgspec.Struct, tag=True, frozen=True):
    """The worker could not get ready, or had to give up."""

    rank: int
    error: str


class Work(msgspec.Struct, tag=True, frozen=True):
    """Queries to answer, as one batch where the pipeline works in batches."""

    queries: list[Query]


class Stop(msgspec.Struct, tag=True, frozen=True):
    """No more queries will come."""

    reason: Literal["finished", "aborted"]


FromWorker = Ready | Want | First | Done | Beat | Bye | Failed
FromConductor = Work | Stop

encode = msgspec.msgpack.Encoder().encode
decode_from_worker = msgspec.msgpack.Decoder(FromWorker).decode
decode_from_conductor = msgspec.msgpack.Decoder(FromConductor).decode
