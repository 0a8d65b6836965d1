"""The data of a run: Sample -> Query -> Record."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from configs.errors import ConfigError, PluginError

Count = Annotated[int, Meta(ge=0, le=2**53)]
Seconds = Annotated[float, Meta(ge=-1e9, le=1e9)]  # 30 years: more is a damaged file


@dataclass(frozen=True, slots=True)
class Sample:
    """One item of a workload's data set.

    prompt: the text that the pipeline gets. meta: what metrics use (`grade`, `split`, `answer`, `expects_motion` ...); pipelines get
    samples without it: see `without_meta`. images: encoded images (PNG or JPEG): for vlm, where several are the frames of a clip; for
    i2v one, the first frame.
    """

    index: int
    prompt: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    images: tuple[bytes, ...] = ()

    @property
    def beginning(self) -> str:
        """The prompt, cut off after 80 characters, to be shown."""
        return self.prompt if len(self.prompt) <= 80 else f"{self.prompt[:80]} ..."


def check_characters(text: str, where: str) -> None:
    """Raises ConfigError where the text has half of a character, a lone surrogate, which no file in UTF-8 can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"U+{ord(text[error.start]):04X}"
        raise ConfigError(f"{where} has the lone surrogate {half}, half of a character; write the whole character or remove it") from None


class WithheldMeta(Mapping[str, Any]):
    """The meta of a sample that a pipeline gets: every use raises PluginError."""

    def __getitem__(self, key: str) -> Any:
        raise PluginError(
            f"a pipeline asked for sample.meta[{key!r}]. Pipelines get samples without meta, which holds the references that metrics "
            "score by. Answer from sample.prompt and sample.images"
        )

    def get(self, key: str, default: Any = None) -> Any:
        return self[key]

    def __contains__(self, key: object) -> bool:
        return bool(self[str(key)])

    def __iter__(self) -> Iterator[str]:
        return iter(self["*"])

    def __len__(self) -> int:
        return len(self["*"])

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__


WITHHELD = WithheldMeta()


def without_meta(samples: Iterable[Sample]) -> list[Sample]:
    """The samples as pipelines get them, in a run and behind the server."""
    return [replace(sample, meta=WITHHELD) for sample in samples]


class Query(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An issued sample. `seed` depends only on the run's seed and the sample, so that a repeated query has the same answer."""

    id: int
    sample_index: int
    seed: int


Status = Literal["done", "failed"]
AFTER_ANSWER = "after_answer"  # the stage between the end of an answer and its Response, such as waiting for a server's usage


class Record(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """The record of one query: one line of records.jsonl.

    Times are seconds since the first query was issued. latency_s = completed_s - issued_s; in the server scenario
    issued_s is the time that LoadGen scheduled the query for. stages: seconds by stage, of the query's batch. num_units: frames, or tokens
    of the answer. first_token_s: time of the first token, on the same clock. media: path in the run folder.
    """

    query_id: Count
    sample_index: Count
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    mode: str
    status: Status
    rank: Annotated[int, Meta(ge=-1, le=2**31)]  # -1: none
    issued_s: Seconds
    completed_s: Seconds
    started_s: Seconds | None = None  # when the rank started it
    batch_size: Annotated[int, Meta(ge=1, le=2**53)] = 1
    group: Count = 0  # multi_stream: the LoadGen query that the sample belongs to
    stages: dict[str, Seconds] = {}
    step_s: list[Seconds] = []  # seconds of each denoising step
    num_units: Count = 0
    num_input_tokens: Count = 0
    first_token_s: Seconds | None = None
    first_token_id: int | None = None
    finish_reason: str | None = None  # `stop` at an end token, `length` at the length limit
    token_gap_s: list[Seconds] = []  # seconds between one token and the next
    digest: str = ""  # SHA-256 of the answer's pixels or text, first 16 hex digits
    media: str | None = None
    text: str | None = None
    finite: bool = True  # False if the pipeline's own numbers contain NaN or infinity
    error: str | None = None
    worked_s: tuple[Seconds, Seconds] | None = None  # start and end on the rank's own clock, converted to the run's
    client_lag_s: Seconds | None = None  # how late a server's client was when the first token came, or a whole answer

    @property
    def latency_s(self) -> float:
        return self.completed_s - self.issued_s

    @property
    def closed_s(self) -> float:
        """When LoadGen was told of the answer: its number of tokens may be known only some time after its end."""
        return self.completed_s + self.stages.get(AFTER_ANSWER, 0.0)

    @property
    def ttft_s(self) -> float | None:
        """Time to first token, from the query's (scheduled) issue, as in LoadGen."""
        return None if self.first_token_s is None else self.first_token_s - self.issued_s

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first, as in LoadGen; None for answers of fewer than two tokens."""
        if self.first_token_s is None or self.num_units < 2:
            return None
        return (self.completed_s - self.first_token_s) / (self.num_units - 1)


def query_seed(run_seed: int, sample_index: int) -> int:
    """The seed of a sample's answer, 63 bits, from the run's seed by SplitMix64's finaliser (Steele et al., 2014)."""
    z = (run_seed + (sample_index + 1) * 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return (z ^ (z >> 31)) >> 1
